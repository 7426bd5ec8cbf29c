"""Which kernel a call runs, and why: ``print(fastrnn.explain(lstm, input))``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from . import _checks, _native, _precision, autograd
from ._extended import Request, add, needs_extras
from ._options import DEFAULTS
from ._ragged import Lengths
from ._stack import Arguments, Stack, cell_arguments, packed_arguments, padded_arguments, runs_as_one
from .modules.base import Cell, Layer
from .modules.jordan import JordanRNN


@dataclass(frozen=True)
class Row:
    """One pass of one direction of one layer."""

    layer: int
    direction: str  # "forward" or "reverse"
    pass_: str  # "forward" or "backward"
    device: str
    path: str  # the kernel's way through the sequence; "none" if the pass would not run
    isa: str
    tile: str
    weights: str  # how the CPU reads the recurrent ones: "packed" first, "in place", "packed ahead" by pack_weights()
    input_product: str  # when the CPU multiplies a layer's input by w_ih: "ahead" of the time loop, or "in the loop"
    threads: int  # of the CPU that run this direction, or of each block on a GPU
    precision: str
    reserve_bytes: int  # kept from forward for backward, by this direction; 0 if no gradient is recorded
    reason: str  # why not a faster path, and what keeps pack_weights() from serving the module


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: ``rows`` to look at, ``str()`` to read."""

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        titles = [field.name.rstrip("_").replace("_bytes", "").replace("_", " ") for field in fields(Row)]
        table = [titles]
        for row in self.rows:
            cells = [getattr(row, field.name) for field in fields(Row)]
            table.append([f"{cell:,}" if isinstance(cell, int) else str(cell or "-") for cell in cells])
        widths = [max(len(line[column]) for line in table) for column in range(len(titles))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)


@dataclass(frozen=True)
class _Shape:
    """What decides the plan of every layer of a call."""

    cell: str
    given_dtype: torch.dtype
    dtype: torch.dtype  # the one that the kernels compute in
    weights_dtype: torch.dtype  # the one in which they read the weights
    allow_tf32: bool
    device: torch.device
    directions: int
    steps: int
    batch: int
    rows: int  # steps * batch, less padding
    input_size: int  # of the first layer
    dense: bool  # all rows run at all steps
    hidden_size: int
    recurrent_size: int
    projected: bool
    frozen: bool
    why_not_frozen: str = ""  # what keeps the module's weights from being packed ahead, if anything does
    layers: int = 1  # that run in one call, one on another
    extended: bool = False  # it is more than the plain recurrence
    last_extended: bool = False  # ... in the last layer
    recompute: bool = False  # backward runs forward again, so that nothing is kept


def explain(module: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
    """Tell how ``module(*args, **kwargs)`` would run, without running it.

    Args:
        module: a fastrnn layer or cell.
        args, kwargs: what it would be called with. Shapes, dtypes and devices count, values do not; meta tensors will
            do, but then nothing runs and there is no kernel to name.

    Returns:
        An :class:`Explanation` with a row for each layer, direction and pass. The backward rows hold for grad mode and
        ``requires_grad`` as they are now; if no gradient would be recorded their path is "none".

    Raises:
        TypeError: if module is not one of fastrnn's.
        What the call itself would raise for arguments it refuses.
    """
    if isinstance(module, (Layer, JordanRNN, Cell)):
        try:
            inspect.signature(module.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(
                f"explain takes what the module would be called with, explain(module, input): {error}"
            ) from None
    if isinstance(module, Layer):
        shape, tensors = _layer_shape(module, *args, **kwargs)
        layers, directions = module.num_layers, ("forward", "reverse") if module.bidirectional else ("forward",)
    elif isinstance(module, JordanRNN):
        shape, tensors = _jordan_shape(module, *args, **kwargs)
        layers, directions = 1, ("forward",)
    elif isinstance(module, Cell):
        shape, tensors = _cell_shape(module, *args, **kwargs)
        layers, directions = 1, ("forward",)
    else:
        raise TypeError(f"explain takes a fastrnn layer or cell itself, got {_checks.describe_module(module)}")
    records = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return Explanation(
        tuple(
            _row(_of_layer(shape, layer == layers - 1), layer, direction, backward, records)
            for layer in range(layers)
            for direction in directions
            for backward in (False, True)
        )
    )


def _of_layer(shape: _Shape, last: bool) -> _Shape:
    return replace(shape, extended=shape.last_extended) if last else shape


def _layer_shape(
    module: Layer,
    input: Tensor | PackedSequence,
    hx: Tensor | Sequence[Tensor] | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | Sequence[Tensor] | None = None,
    return_states: bool = False,
) -> tuple[_Shape, list[Tensor]]:
    """The shape of a layer's call, and the tensors a gradient could flow to."""
    weights, request = module._flat_weights, module._request(resets, reset_state, return_states)
    frozen = request is None and module._frozen_weights(weights) is not None
    shape, tensors = _stack_shape(module, request, weights, frozen, input, hx, lengths)
    return replace(shape, why_not_frozen=module._why_not_packed()), tensors


def _jordan_shape(
    module: JordanRNN,
    input: Tensor | PackedSequence,
    hx: Tensor | None = None,
    *,
    lengths: Lengths | None = None,
    resets: Tensor | None = None,
    reset_state: Tensor | None = None,
) -> tuple[_Shape, list[Tensor]]:
    """As :func:`_layer_shape`, of what runs through time."""
    stack = module._recurrence_of(input)
    return _stack_shape(stack, stack.request(resets, reset_state), stack.weights, False, stack.input, hx, lengths)


def _stack_shape(
    stack: Stack,
    request: Request | None,
    weights: list[Tensor],
    frozen: bool,
    input: Tensor | PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    lengths: Lengths | None,
) -> tuple[_Shape, list[Tensor]]:
    if isinstance(input, PackedSequence):
        arguments = packed_arguments(stack, input, hx, weights, lengths)
        steps, rows = input.batch_sizes.shape[0], input.data.shape[0]
    else:
        arguments = padded_arguments(stack, input, hx, weights, lengths)
        steps = arguments.input.shape[0]
        rows = steps * arguments.batch
    size, directions = stack.hidden_size, 2 if stack.bidirectional else 1
    cell = (request.options if request else DEFAULTS).cell(stack.mode)
    shape, tensors = _shape(cell, arguments, directions, steps, rows, size, stack.proj_size, weights, frozen)
    if request is None:
        return replace(shape, layers=stack.num_layers if runs_as_one(stack, weights) else 1), tensors
    options, resets, reset_state, return_states, _ = request
    add(stack, request, (steps, arguments.batch), arguments.input, None, stack.batch_first, not _is_single(input))
    cuts = resets is not None or (options.tbptt_steps is not None and torch.is_grad_enabled())
    extended, last = (needs_extras(cell, options, stack.training, cuts, cells) for cells in (False, return_states))
    recompute, dtype = options.recompute, shape.dtype  # of weights, too: see _stack.py
    shape = replace(shape, extended=extended, last_extended=last, recompute=recompute, weights_dtype=dtype)
    return shape, [*tensors, *(leaf for leaf in tree_leaves(reset_state) if leaf is not None)]


def _is_single(input: Tensor | PackedSequence) -> bool:
    return isinstance(input, Tensor) and input.dim() == 2


def _cell_shape(
    module: Cell, input: Tensor, hx: Tensor | Sequence[Tensor] | None = None
) -> tuple[_Shape, list[Tensor]]:
    """As :func:`_layer_shape`, for a cell."""
    weights = module._current_weights()
    arguments = cell_arguments(module._cell, input, hx, weights)
    size, frozen = module.hidden_size, module._frozen_weights(weights) is not None
    shape, tensors = _shape(module._cell, arguments, 1, 1, arguments.batch, size, 0, weights, frozen)
    return replace(shape, why_not_frozen=module._why_not_packed()), tensors


def _shape(
    cell: str,
    arguments: Arguments,
    directions: int,
    steps: int,
    rows: int,
    hidden_size: int,
    proj_size: int,
    weights: list[Tensor],
    frozen: bool,
) -> tuple[_Shape, list[Tensor]]:
    input, states, batch_sizes, batch, *_ = arguments
    result = _precision.result_dtype(input)
    dtype = _precision.computed_dtype(input, result)
    reads_bfloat16 = autograd.reads_bfloat16(input, states or (), weights)
    shape = _Shape(
        cell,
        input.dtype,
        dtype,
        torch.bfloat16 if reads_bfloat16 else dtype,
        _precision.allows_tf32(input.new_empty(0, dtype=dtype)),
        input.device,
        directions,
        steps,
        batch,
        rows,
        input.shape[-1],
        batch_sizes is None,
        hidden_size,
        proj_size or hidden_size,
        proj_size > 0,
        frozen and (reads_bfloat16 or _precision.computed_as_is(input, result)),
    )
    return shape, [input, *weights, *(states or ())]


def _describe_precision(shape: _Shape, formula: bool) -> str:
    """What numbers a call computes with; formulas compute half types in float32, on torch's own products."""
    given, computed = (str(dtype).removeprefix("torch.") for dtype in (shape.given_dtype, shape.dtype))
    if shape.dtype in _precision.HALF_DTYPES:
        return f"{computed} in float32" if formula else f"{computed}, sums in float32"
    if shape.allow_tf32 and not formula:
        return f"{computed} on TF32"
    if shape.weights_dtype != shape.dtype:
        return f"{computed} on bfloat16 weights"
    return f"{given} in {computed}" if shape.given_dtype in _precision.HALF_DTYPES else computed


def _row(shape: _Shape, layer: int, direction: str, backward: bool, records: bool) -> Row:
    pass_ = "backward" if backward else "forward"
    formula = autograd.takes_formula()
    precision = _describe_precision(shape, formula)
    where = (layer, direction, pass_, str(shape.device))

    def without_kernels(path: str, threads: int, reason: str) -> Row:
        return Row(*where, path, "", "", "", "", threads, precision, 0, reason)

    if backward and not records:
        return without_kernels("none", 0, "no gradient: grad mode is off or nothing requires grad")
    if formula:
        threads = torch.get_num_threads() if shape.device.type == "cpu" else 0
        return without_kernels("formula", threads, "forward-mode AD: torch ops, slow")
    if shape.device.type == "meta":
        return without_kernels("none", 0, "meta tensors: only shapes are computed")
    plan = _native.plan(
        shape.cell,
        shape.dtype,
        shape.weights_dtype,
        shape.steps,
        shape.batch,
        shape.hidden_size,
        shape.recurrent_size,
        backward,
        device=shape.device,
        layers=shape.layers,
        directions=shape.directions,
        rows=shape.rows,
        input_size=shape.input_size,
        dense=shape.dense,
        projected=shape.projected,
        allow_tf32=shape.allow_tf32,
        extended=shape.extended,
        frozen=shape.frozen and not records,
        handed_on=shape.recurrent_size if layer < shape.layers - 1 else 0,
    )
    reserve = plan["reserve_bytes"] if records and not shape.recompute else 0
    path = plan["path"] + " with extras" * shape.extended
    weights: Any = "packed ahead" if plan.get("weights") == "frozen" else plan.get("weights", "")
    facts = path, plan["isa"], plan["tile"], weights, plan.get("input_product", ""), plan["threads"]
    reason = plan["reason"]
    if weights and not records and shape.why_not_frozen:
        reason += f"; not packed ahead: {shape.why_not_frozen}"
    return Row(*where, *facts, precision, reserve, reason)
