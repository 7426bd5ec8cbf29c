"""A call as ONNX's own operators RNN, GRU and LSTM, for both of torch.onnx's exporters: one node for each layer.

ONNX has W (D, G*H, I), R (D, G*H, H), both biases in one B (D, 2*G*H), and Y (T, D, B, H) where a layer returns
(T, B, D*H). Its gates are i, o, f, c and z, r, h.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from . import derivatives
from .calls import Call
from .cells import CELLS


class Operator(NamedTuple):
    """What a cell is to ONNX."""

    name: str
    gates: tuple[int, ...]  # which of torch's stands where
    attributes: dict[str, Any]


_OPERATORS = {
    "rnn_tanh": Operator("RNN", (0,), {"activations": "Tanh"}),
    "rnn_relu": Operator("RNN", (0,), {"activations": "Relu"}),
    "lstm": Operator("LSTM", (0, 3, 1, 2), {}),
    "gru": Operator("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "gru_reset_before": Operator("GRU", (1, 0, 2), {"linear_before_reset": 0}),
}
# Options by what the cell is called that has them.
_OPTIONS = {"peephole": "peephole", "coupled": "coupled", "norm": "layer_norm"}


def exports() -> bool:
    """Whether a call that is traced is traced for torch.onnx."""
    return torch.onnx.is_in_onnx_export()


# Dynamo, which torch.onnx tries where the plain export fails, takes torch's own function for False.
exports._dynamo_marked_constant = True  # type: ignore[attr-defined]


def layers(call: Call, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The call's outputs, as :func:`fastrnn.reference.layers` defines them, while torch.onnx exports.

    Raises:
        NotImplementedError: for what ONNX's operators cannot say.
    """
    if CELLS[call.cell].load is not None:  # a cell of the user's: step by step
        if call.batch_sizes is not None:
            name = call.cell.partition("@")[0]
            raise NotImplementedError(
                f"{name}: no export to ONNX with lengths or of a PackedSequence. Give padded batches"
            )
        return derivatives.forward(call, *primals)
    input, states, _, weights = call.split(primals)
    operator = _operator(call, input, states[0], weights)
    directions = 2 if call.bidirectional else 1
    count = _constant(states[0].shape[0]) // directions
    lengths = None if call.batch_sizes is None else call.batch_sizes.to(torch.int32)
    finals = []
    for own, begin in zip(
        _split(weights, count), zip(*[state.chunk(count) for state in states], strict=True), strict=True
    ):
        input, *ends = _layer(operator, input, lengths, begin, _split(own, directions))
        finals.append(ends)
    return input, *[torch.cat(state) if count > 1 else state[0] for state in zip(*finals, strict=True)]


def _operator(call: Call, input: Tensor, hx: Tensor, weights: Sequence[Tensor]) -> Operator:
    kind, *variant = call.cell.split("_")
    if kind == "jordan":
        raise NotImplementedError("JordanRNN: ONNX has no such operator. Make the model of RNN, LSTM or GRU")
    lacks = [_OPTIONS[part] for part in variant if part in _OPTIONS]
    extras, remedy = call.extras, "Make the layer without"
    if extras is not None:
        lacks += ["resets, or tbptt_steps but under torch.no_grad()"] * (extras.cuts is not None)
        lacks += ["variational_dropout but in eval mode"] * (extras.h_mask is not None)
        lacks += ["zoneout"] * bool(extras.kept or extras.shares) + ["return_states"] * extras.return_cells
    if input.dim() != 3:
        lacks.append("PackedSequence or nested tensor")
        remedy = (
            "Give a padded batch and lengths=; or make the model torch.nn's, fastrnn.to_torch(model), for dynamo=False"
        )
    elif not lacks and _constant(hx.shape[-1]) != _constant(weights[0].shape[0]) // CELLS[call.cell].gates:
        lacks.append("proj_size")
    if lacks:
        raise NotImplementedError(f"{kind.upper()}: no export to ONNX's operator with {', '.join(lacks)}. {remedy}")
    return _OPERATORS[call.cell]


def _split(weights: Sequence[Tensor], count: int) -> list[Sequence[Tensor]]:
    each = len(weights) // count
    return [weights[first : first + each] for first in range(0, len(weights), each)]


def _layer(
    operator: Operator, input: Tensor, lengths: Tensor | None, states: Sequence[Tensor], weights: list[Sequence[Tensor]]
) -> list[Tensor]:
    """Output and final states of one layer, given each direction's weights."""
    directions, hidden_size = len(weights), _constant(states[0].shape[-1])
    w_ih, w_hh, *biases = [torch.stack([_reordered(w, operator) for w in pair]) for pair in zip(*weights, strict=True)]
    given = [input, w_ih, w_hh, torch.cat(biases, 1) if biases else None, lengths, *states]
    attributes: dict[str, Any] = {
        "hidden_size": hidden_size,
        "direction": "bidirectional" if directions == 2 else "forward",
    }
    for name, value in operator.attributes.items():
        attributes[name] = [value] * directions if isinstance(value, str) else value
    steps, batch, _ = input.shape
    shapes = [(steps, directions, batch, hidden_size), *[(directions, batch, hidden_size)] * len(states)]
    y, *finals = _node(operator.name, given, attributes, shapes)
    return [y.transpose(1, 2).flatten(2), *finals]


def _constant(size: int) -> int:
    """A size that weights fix. While torch.jit traces, sizes are tensors, and it warns of whoever asks for a number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TracerWarning)
        return int(size)


def _reordered(weight: Tensor, operator: Operator) -> Tensor:
    rows = _constant(weight.shape[0]) // len(
        operator.gates
    )  # slices, which torch.onnx folds into constants; splits it does not
    gates = [weight[place * rows : (place + 1) * rows] for place in operator.gates]
    return torch.cat(gates) if len(gates) > 1 else weight


def _node(
    name: str, inputs: Sequence[Tensor | None], attributes: dict[str, Any], shapes: Sequence[tuple[int, ...]]
) -> Sequence[Tensor]:
    if torch._C._is_tracing():
        given = tuple(value is not None for value in inputs)
        return _TracedNode.apply(name, attributes, given, shapes, *[value for value in inputs if value is not None])
    dtypes = [inputs[0].dtype] * len(shapes)  # type: ignore[union-attr]
    return torch.onnx.ops.symbolic_multi_out(f"::{name}", inputs, attributes, dtypes=dtypes, shapes=shapes)


class _TracedNode(torch.autograd.Function):
    """A node for the exporter that traces by torch.jit (``dynamo=False``)."""

    @staticmethod
    def forward(
        ctx: Any, name: str, attributes: dict[str, Any], given: tuple[bool, ...], shapes: Any, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple([inputs[0].new_zeros([int(size) for size in shape]) for shape in shapes])

    @staticmethod
    def symbolic(
        g: Any, name: str, attributes: dict[str, Any], given: tuple[bool, ...], shapes: Any, *inputs: Any
    ) -> Any:
        rest = iter(inputs)
        operands = [next(rest) if is_given else _nothing(g) for is_given in given]
        suffixes = {int: "i", str: "s", list: "s"}
        named = {f"{key}_{suffixes[type(value)]}": value for key, value in attributes.items()}
        return g.op(name, *operands, outputs=len(shapes), **named)


def _nothing(g: Any) -> Any:
    """An operand that is left out."""
    value = g.op("prim::Constant")
    value.setType(torch.OptionalType.ofTensor())
    return value
