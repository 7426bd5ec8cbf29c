"""Layers and cells of equations that a user wrote: the base classes of what ``fastrnn.cell`` returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._call.modifiers import dropped_weights
from .._call.ragged import Lengths
from .._cell.own import OwnCell
from .._ops.cells import CELLS
from .._options import DEFAULTS, Options
from .base import Cell, Layer, check_bidirectional, is_traced, traced_call
from .layers import Device

Initialiser = Callable[[str, Tensor], Any]


def check_weight_names(names: Sequence[str]) -> None:
    """Raise ValueError for a weight whose name would hide an attribute of a layer or of its ``Cell``."""
    own = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "init", "Cell")
    taken = {*own, *nn.RNNBase.__constants__, *nn.RNNCellBase.__constants__, *vars(nn.Module())}
    for name in names:
        if name in taken or hasattr(OwnLayer, name) or hasattr(OwnStep, name):
            raise ValueError(f"weight {name!r} has the name of an attribute of layers and cells: give it another")
        if name.startswith("_"):
            raise ValueError(f"weight {name!r} begins with an underscore, as names of layers' own attributes do")


class _OwnWeights:
    """The parameters of one direction of a layer, or of a cell."""

    def __init__(self, own: OwnCell, input_size: int, hidden_size: int, bias: bool, heads: int = 1) -> None:
        graph = own.graph
        gates, dense = len(graph.gates), graph.recurrent == "dense"
        projected = graph.reads_input and input_size != hidden_size
        self.shapes: dict[str, tuple[int, ...]] = {"weight_ih": ((gates + projected) * hidden_size, input_size)}
        if dense:
            self.shapes["weight_hh"] = (gates * hidden_size, hidden_size // heads)
        elif graph.recurrent == "diagonal":
            self.shapes["weight_hh"] = (gates, hidden_size)
        if bias:
            self.shapes["bias_ih"] = (gates * hidden_size,)
        if bias and dense:
            self.shapes["bias_hh"] = (gates * hidden_size,)
        self.shapes |= dict.fromkeys(graph.weights, (hidden_size,))
        # As the kernels take them, the per-unit ones last.
        units = (*(["weight_hh"] if graph.recurrent == "diagonal" else []), *graph.weights)
        self.names = [*(name for name in self.shapes if name not in units), *units]

    def in_order(self) -> list[tuple[int, ...]]:
        """Their shapes as the kernels take them, but for weights of single units, which are apart here."""
        flat = [(name, self.shapes[name]) for name in self.names]
        return [(1, *shape) if len(shape) == 1 and not name.startswith("bias") else shape for name, shape in flat]


def _fill(name: str, tensor: Tensor, plain_name: str, own: OwnCell, init: Initialiser | None, bound: float) -> None:
    """A parameter's first values: by `init`, by what the cell says of this weight, or as torch draws them."""
    with torch.no_grad():
        if init is not None:
            init(name, tensor)
        elif plain_name in own.initialisers:
            own.initialisers[plain_name](tensor)
        else:
            nn.init.uniform_(tensor, -bound, bound)


def _joined(weights: Sequence[Tensor], each: int, own_cell: OwnCell, hidden_size: int) -> list[Tensor]:
    """The weights, `each` for a direction, with those of single units in the one tensor that the kernels take."""
    units = _unit_tensors(own_cell)
    joined: list[Tensor] = []
    for first in range(0, len(weights), each):
        own = weights[first : first + each]
        per_unit = [weight.view(-1, hidden_size) for weight in own[each - units :]]
        joined += [*own[: each - units], per_unit[0] if units == 1 else torch.cat(per_unit)]
    return joined


def _unit_tensors(own: OwnCell) -> int:
    """How many parameters of a direction are weights of single units; they are the last ones."""
    return (own.graph.recurrent == "diagonal") + len(own.graph.weights)


class OwnLayer(Layer):
    """Base of the layers that ``fastrnn.cell`` returns.

    Args:
        input_size: features of the input, I.
        hidden_size: features of each state, H.
        num_layers: layers stacked on another, L. Default 1.
        bias: whether there are ``bias_ih`` and, with a dense recurrence, ``bias_hh``. Default True.
        batch_first: input and output, but not states, are (B, T, features) in place of (T, B, features). Default False.
        dropout: probability of zeroing each output element of every layer but the last, in training. Default 0.
        bidirectional: a second direction (D = 2) runs from the last step to the first. Default False.
        device, dtype: of the parameters, as in torch.nn.
        init: ``init(name, tensor)`` fills each parameter; by default all are drawn from U(-1/sqrt(H), 1/sqrt(H)), as
            torch.nn draws, but for weights that the cell has initialisers for.
        tbptt_steps, state_grad_clip, zoneout, weight_dropout, variational_dropout, num_heads, recompute: see
            :class:`fastrnn.Options`. ``zoneout`` may be a tuple, one for each state. Without a dense recurrence there
            are no ``num_heads`` and no ``variational_dropout``, with none at all no ``weight_dropout``.

    Inputs: input, hx
        * **input**: (T, B, I), (B, T, I) with ``batch_first``, (T, I) for one sequence, a ``PackedSequence``, or a
          nested tensor (B, T, I) of layout torch.jagged.
        * **hx**: (L*D, B, H), or (L*D, H) for one sequence; of more than one state a tuple of as many. Zeros by
          default.
        * **lengths**, **resets**, **reset_state**: as :class:`fastrnn.LSTM` takes them.
        * **return_states**: whether to return every step's states, too. Default False.

    Outputs: output, hy
        * **output**: as input, with D*H features: the last layer's first state, or its ``output``, at each t.
        * **hy**: as hx.
        * with ``return_states`` also **states**: a tuple, each as output: the last layer's states at each t.

    Raises:
        What :class:`fastrnn.GRU` raises.
    """

    _has_twin = False
    _own: ClassVar[OwnCell]
    Cell: ClassVar[type[OwnStep]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        init: Initialiser | None = None,
        tbptt_steps: int | None = None,
        state_grad_clip: float | None = None,
        zoneout: float | tuple[float, ...] = 0.0,
        weight_dropout: float = 0.0,
        variational_dropout: float = 0.0,
        num_heads: int = 1,
        recompute: bool = False,
    ) -> None:
        own = self._own
        # Checks and attributes are torch's; its parameters, of another shape, are let go of again.
        plain = (input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)
        nn.RNNBase.__init__(self, "RNN_TANH", *plain, device="meta")
        check_bidirectional(bidirectional)
        for name in list(self._parameters):
            delattr(self, name)
        self.mode = own.key
        options = Options(
            tbptt_steps=tbptt_steps,
            state_grad_clip=state_grad_clip,
            zoneout=zoneout,
            weight_dropout=weight_dropout,
            variational_dropout=variational_dropout,
            num_heads=num_heads,
            recompute=recompute,
        )
        self._check_options(options)
        self._options = None if options == DEFAULTS else options
        self.init = init
        self._make_parameters(device, dtype)
        self.reset_parameters()

    @classmethod
    def source(cls) -> str:
        """The C++ header of the cell's kernels."""
        return cls._own.source()

    def _check_options(self, options: Options) -> None:
        graph = self._own.graph
        options.check_own_layer(self._own.name, len(graph.states), graph.recurrent, self.hidden_size)

    def _make_parameters(self, device: Device, dtype: torch.dtype | None) -> None:
        directions = 2 if self.bidirectional else 1
        heads = (self._options or DEFAULTS).num_heads
        self._all_weights = []
        self._plain_names: dict[str, str] = {}  # of a parameter without the layer
        for layer in range(self.num_layers):
            size = self.input_size if layer == 0 else self.hidden_size * directions
            weights = _OwnWeights(self._own, size, self.hidden_size, self.bias, heads)
            for reverse in range(directions):
                ending = f"_l{layer}" + "_reverse" * reverse
                for name, shape in weights.shapes.items():
                    tensor = torch.empty(shape, device=device, dtype=dtype)
                    self.register_parameter(name + ending, nn.Parameter(tensor))
                    self._plain_names[name + ending] = name
                self._all_weights.append([name + ending for name in weights.names])
        self._flat_weights_names = [name for names in self._all_weights for name in names]

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        if "_plain_names" not in self.__dict__:  # of the constructor's first half
            return
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            _fill(name, parameter, self._plain_names.get(name, name), self._own, self.init, bound)

    def _why_not_packed(self, dtype: torch.dtype | None = None) -> str:
        graph = self._own.graph
        if graph.recurrent != "dense":
            return "the layer has no matrix of recurrent weights"
        if graph.per_unit_weights:
            return "the weights of single units are joined at every call"
        return super()._why_not_packed(dtype)

    @property
    def _joins(self) -> bool:  # type: ignore[override]
        return self._own.graph.per_unit_weights > 0

    def _joined(self, weights: Sequence[Tensor]) -> list[Tensor]:
        each = len(weights) // len(self._all_weights)
        if self._own.graph.recurrent == "diagonal" and self._options is not None and self.training:
            weights = dropped_weights(weights, each, each - _unit_tensors(self._own), self._options)
        return _joined(weights, each, self._own, self.hidden_size)

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | Sequence[Tensor] | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the sequence; see the class for shapes and errors."""
        facts = CELLS[self.mode]
        if _is_traced(input, hx):
            given = {"lengths": lengths, "resets": resets, "reset_state": reset_state, "return_states": return_states}
            call: Any = traced_call(self, input, hx, **given)
            hy = _taken_apart(call[1], facts.given_states)
            if not return_states:
                return call[0], hy
            return call[0], hy, tuple([call[2][index] for index in range(facts.given_states)])
        output, results = self._run(input, hx, lengths, resets, reset_state, return_states and (facts.states > 1))
        states = results[: facts.given_states]
        hy = states if len(states) > 1 else states[0]
        if not return_states:
            return output, hy
        every = _every_state(output, results[facts.given_states :], facts.given_states, facts.separate_output)
        return output, hy, every


def _is_traced(input: Any, hx: Any) -> bool:
    return is_traced(input) or (hx is not None and is_traced(hx))


def _taken_apart(states: Any, count: int) -> Any:
    """What torch.fx knows as one value, as a call returns it."""
    return tuple([states[index] for index in range(count)]) if count > 1 else states


def _every_state(output: Any, rest: Sequence[Any], count: int, separate_output: bool) -> tuple[Any, ...]:
    """Each state of every step, from those that the call returned side by side, h among them if it isn't the output."""
    if not rest:
        return (output,)
    joined = rest[0]
    if isinstance(joined, PackedSequence):
        parts = [PackedSequence(part, *joined[1:]) for part in joined.data.chunk(count - (not separate_output), -1)]
    else:
        parts = list(joined.chunk(count - (not separate_output), -1))
    return tuple(parts if separate_output else [output, *parts])


class OwnStep(Cell):
    """Base of the ``Cell`` of a class that ``fastrnn.cell`` returns: one step, as :class:`torch.nn.GRUCell`.

    Args:
        input_size: features of the input, I.
        hidden_size: features of each state, H.
        bias: whether there are biases. Default True.
        device, dtype: of the parameters, as in torch.nn.
        init: as of the layer.

    Inputs: input, hx
        * **input**: (B, I), or (I,).
        * **hx**: (B, H), or (H,); of more than one state a tuple of as many. Zeros by default.

    Outputs: hy
        * **hy**: as hx; of a cell with an ``output`` (output, hy).
    """

    _has_twin = False
    _own: ClassVar[OwnCell]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        init: Initialiser | None = None,
    ) -> None:
        nn.Module.__init__(self)
        own = self._own
        for what, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"{own.name}.Cell: {what} should be of type int, got: {type(size).__name__}")
            if size < 1:
                raise ValueError(f"{own.name}.Cell: {what} must be greater than zero, got {size}")
        self.input_size, self.hidden_size, self.bias, self.init = input_size, hidden_size, bias, init
        weights = _OwnWeights(own, input_size, hidden_size, bias)
        found = CELLS[own.key].hidden_size_of_weights([torch.empty(s, device="meta") for s in weights.in_order()])
        if found != hidden_size:  # of a lone w_ih
            raise ValueError(
                f"{own.name}.Cell: from its weight {weights.shapes['weight_ih']} hidden_size {hidden_size} cannot be "
                f"told from {found}. Give it biases, or change one of the sizes"
            )
        for name, shape in weights.shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self._own_names = weights.names
        self.reset_parameters()

    @property
    def _cell(self) -> str:  # type: ignore[override]
        return self._own.key

    @property
    def _weight_names(self) -> Sequence[str]:
        return self._own_names

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            _fill(name, parameter, name, self._own, self.init, bound)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")

    def _why_not_packed(self, dtype: torch.dtype | None = None) -> str:
        graph = self._own.graph
        if graph.recurrent != "dense" or graph.per_unit_weights:
            return "only cells whose recurrent weights are one matrix, and no others, are packed"
        return super()._why_not_packed(dtype)

    @property
    def _joins(self) -> bool:  # type: ignore[override]
        return self._own.graph.per_unit_weights > 0

    def _joined(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return _joined(weights, len(weights), self._own, self.hidden_size)

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run one step; see the class for shapes and errors."""
        facts = CELLS[self._cell]
        if _is_traced(input, hx):
            call: Any = traced_call(self, input, hx)
            if facts.separate_output:
                return call[0], _taken_apart(call[1], facts.given_states)
            return _taken_apart(call, facts.given_states)
        states = self._run(input, hx)
        after = states[: facts.given_states]
        hy = after if len(after) > 1 else after[0]
        return (states[-1], hy) if facts.separate_output else hy
