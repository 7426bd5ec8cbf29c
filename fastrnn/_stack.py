"""From arguments as people give them to layers, and back: all that is the same for every cell.

:func:`run_stack` serves the layers, :func:`run_cell` the cells; modules and ``fastrnn.functional`` both end here, and
here ends all knowledge of unbatched input, ``batch_first``, ``PackedSequence``, layers and dropout.

This runs at every call and some calls take 20 us in all, so it makes no tensor it can do without (one layer's states
are not sliced, its results not joined) and asks a tensor for no attribute twice. What goes down need not be contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import _checks, _extended, _precision, _ragged, autograd
from ._cells import CELLS
from ._frozen import Frozen
from .reference import States


class Stack(Protocol):
    """What a stack of layers is, less its weights. A module is one as it stands, so a call copies no options."""

    mode: str  # the cell, in capitals as in torch.nn: "RNN_TANH", "RNN_RELU", "LSTM", "GRU"
    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool


class Arguments(NamedTuple):
    """A call's arguments, checked and in the one form that layers take."""

    input: Tensor  # (T, B, I), or packed (N, I)
    states: States | None  # of all layers, (L*D, B, features) each, in the packed order; None for zeros
    batch_sizes: Tensor | None  # (T,), of packed and ragged input: rows that run at each step; on the CPU or as input
    batch: int
    order: Tensor | None = None  # (B,), the permutation that sorted the rows by length
    restore: Tensor | None = None  # (B,), undoes it
    added: _extended.Added | None = None  # what is more than torch.nn's


def run_stack(
    stack: Stack,
    input: Tensor | PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: _ragged.Lengths | None = None,
    frozen: Frozen | None = None,
    request: _extended.Request | None = None,
) -> tuple[Tensor | PackedSequence, tuple[Any, ...]]:
    """The one road for layers: output and the final states, in the form in which input and hx came.

    `frozen` are the weights as they were packed, or None. `request` is what the call is more than torch.nn's; if it is
    for every step's c, that comes behind the states, formed as output.
    """
    if isinstance(input, PackedSequence):
        arguments = packed_arguments(stack, input, hx, weights, lengths)
        if request is not None:
            arguments = _add(stack, arguments, request, stack.batch_first)
        output, finals = _run_layers(stack, arguments, weights, frozen)
        finals, cells = _split_cells(arguments, finals)
        packed = [PackedSequence(data, *input[1:]) for data in (output, *cells)]
        return packed[0], (*_restore(arguments, finals), *packed[1:])
    if isinstance(input, Tensor) and input.is_nested:
        return _run_jagged(stack, input, hx, weights, lengths, frozen, request)

    arguments = padded_arguments(stack, input, hx, weights, lengths)
    if request is not None:
        arguments = _add(stack, arguments, request, stack.batch_first, batched=input.dim() == 3)
    output, finals = _run_padded(stack, arguments, weights, frozen)
    if input.dim() == 2:
        return output.squeeze(1), tuple([state.squeeze(1) for state in finals])
    if not stack.batch_first:
        return output, finals
    finals, cells = _split_cells(arguments, finals)
    return output.transpose(0, 1), (*finals, *[c.transpose(0, 1) for c in cells])


def _add(
    stack: Stack, arguments: Arguments, request: _extended.Request, batch_first: bool, batched: bool = True
) -> Arguments:
    """The arguments, with what the call is more than torch.nn's."""
    input, _, batch_sizes, batch, order, *_ = arguments
    if input.dim() == 2 and order is None and isinstance(request.resets, Tensor):
        batch = _batch_of(batch, request.resets, 0 if batch_first else 1)
    steps = input.shape[0] if input.dim() == 3 or batch_sizes is None else batch_sizes.shape[0]
    added = _extended.add(stack, request, (steps, batch), input, order, batch_first, batched)
    return arguments._replace(batch=batch, added=added)


def _split_cells(arguments: Arguments, finals: States) -> tuple[States, States]:
    """The final states, and every step's c if the call asked for it."""
    if arguments.added is None or not arguments.added.return_cells:
        return finals, ()
    return finals[:-1], finals[-1:]


def _run_padded(
    stack: Stack, arguments: Arguments, weights: Sequence[Tensor], frozen: Frozen | None
) -> tuple[Tensor, States]:
    """Output (T, B, F) and final states of a padded batch, its rows in the order in which they came."""
    output, finals = _run_layers(stack, arguments, weights, frozen)
    if arguments.restore is None:
        return output, finals
    return output.index_select(1, arguments.restore), _restore(arguments, finals)


def _restore(arguments: Arguments, finals: States) -> States:
    if arguments.restore is None:
        return finals
    return tuple([state.index_select(1, arguments.restore) for state in finals])


def _run_jagged(
    stack: Stack,
    input: Tensor,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: _ragged.Lengths | None,
    frozen: Frozen | None,
    request: _extended.Request | None,
) -> tuple[Tensor, States]:
    """A nested tensor (B, T, I) of layout torch.jagged; its batch is in front whatever batch_first says."""
    name = _checks.LAYER_NAMES[stack.mode.lower()]
    if lengths is not None:
        _checks.refuse_lengths(name, "nested tensor")
    _ragged.check_jagged(name, input)
    if _ragged.packs_jagged(input) and (request is None or request.resets is None):  # resets are padded
        sequence, source = _ragged.jagged_to_packed(input)
        output, results = run_stack(stack, sequence, hx, weights, None, frozen, request)
        jagged = [
            _ragged.packed_to_jagged(result.data, source, input) if isinstance(result, PackedSequence) else result
            for result in (output, *results)
        ]
        return jagged[0], tuple(jagged[1:])
    padded, lengths = _ragged.jagged_to_padded(input)
    arguments = padded_arguments(stack, padded, hx, weights, lengths, batch_first=True)
    if request is not None:
        arguments = _add(stack, arguments, request, batch_first=True)
    output, finals = _run_padded(stack, arguments, weights, frozen)
    finals, cells = _split_cells(arguments, finals)
    jagged = [_ragged.padded_to_jagged(padded, input) for padded in (output, *cells)]
    return jagged[0], (*finals, *jagged[1:])


def padded_arguments(
    stack: Stack,
    input: Tensor,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: _ragged.Lengths | None = None,
    batch_first: bool | None = None,
) -> Arguments:
    """The arguments of a call with a padded batch or a single sequence; batch_first is the stack's by default."""
    cell = stack.mode.lower()
    name = _checks.LAYER_NAMES[cell]
    if not isinstance(input, Tensor):
        _checks.refuse_input_type(name, input, "Tensor or a PackedSequence")
    rank = input.dim()
    if rank == 2:
        input = input.unsqueeze(1)
    elif rank != 3:
        raise ValueError(
            f"{name}: expected input to be 2D (one sequence) or 3D (a batch), got {rank}D. "
            "Reshape it to (T, I), (T, B, I), or (B, T, I) with batch_first"
        )
    elif stack.batch_first if batch_first is None else batch_first:
        input = input.transpose(0, 1)
    states = None if hx is None else _checks.unpack_hx(cell, name, hx)
    _checks.check_tensors(name, input, weights, states, ValueError)
    steps, batch, features = input.shape
    _checks.check_sizes(name, steps, features, stack.input_size)
    if states is not None:
        if rank == 2:
            _check_states(name, stack, states, ())
            states = tuple([state.unsqueeze(1) for state in states])
        else:
            _check_states(name, stack, states, (batch,))
    arguments = Arguments(input, states, None, batch)
    if lengths is None:
        return arguments
    lengths = _ragged.as_tensor(name, lengths)
    _ragged.check_lengths(name, lengths, steps, () if rank == 2 else (batch,), stack.batch_first)
    return _sorted_by_length(arguments, lengths)


def _sorted_by_length(arguments: Arguments, lengths: Tensor) -> Arguments:
    input, states, _, batch, *_ = arguments
    if not (input.is_cuda and lengths.is_cpu):  # there the host can tell the kernels which rows to leave out
        lengths = lengths.to(input.device)
    rows = _ragged.row_counts(lengths.reshape(batch), input.shape[0], input.device)
    if states is not None:
        states = tuple([state.index_select(1, rows.order) for state in states])
    # The weights' gradients are products over all steps, and 0 times a NaN left in the padding is NaN. In place: the
    # sorted input is nobody else's.
    input = input.index_select(1, rows.order).masked_fill_(rows.padding.unsqueeze(2), 0.0)
    return Arguments(input, states, rows.batch_sizes, batch, rows.order, rows.restore)


def packed_arguments(
    stack: Stack,
    input: PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: _ragged.Lengths | None = None,
) -> Arguments:
    """The arguments of a call with a PackedSequence."""
    cell = stack.mode.lower()
    name = _checks.LAYER_NAMES[cell]
    if lengths is not None:
        _checks.refuse_lengths(name, "PackedSequence")
    data, batch_sizes, sorted_indices, unsorted_indices = input
    if data.dim() != 2:
        raise RuntimeError(f"{name}: the data of a PackedSequence must have 2 dimensions, got {data.dim()}")
    states = None if hx is None else _checks.unpack_hx(cell, name, hx)
    _checks.check_tensors(name, data, weights, states, ValueError)
    _checks.check_sizes(name, batch_sizes.shape[0], data.shape[1], stack.input_size)
    # From a shape where there is one: a tensor's value would break torch.compile's graph.
    batch = int(batch_sizes[0]) if sorted_indices is None else sorted_indices.shape[0]
    if states is not None:
        if sorted_indices is None:
            batch = _batch_of(batch, states[0], 1)
        # Before the permutation: index_select would quietly drop rows of a state that has too many.
        _check_states(name, stack, states, (batch,))
        if sorted_indices is not None:
            states = tuple([state.index_select(1, sorted_indices) for state in states])
    return Arguments(data, states, batch_sizes, batch, sorted_indices, unsorted_indices)


def _batch_of(read: int, tensor: Tensor, dim: int) -> int:
    """The batch of a sorted PackedSequence, read from its batch sizes: in a graph, where nothing can be decided by such
    a number, the size of a tensor that must have as many. The op refuses batch sizes above it; rows beyond do not run.
    """
    return tensor.shape[dim] if torch.compiler.is_compiling() and tensor.dim() > dim else read


def _check_states(name: str, stack: Stack, states: States, batch: tuple[int, ...]) -> None:
    """Raise unless the states measure (L*D, *batch, features); ``batch`` is (B,), or () for a single sequence."""
    rows = stack.num_layers * 2 if stack.bidirectional else stack.num_layers
    hx_shape = (rows, *batch, stack.proj_size or stack.hidden_size)
    cx_shape = (rows, *batch, stack.hidden_size)
    if states[0].shape != hx_shape or (len(states) > 1 and states[1].shape != cx_shape):
        _checks.refuse_states(name, states, (hx_shape, cx_shape), stack.batch_first)


def _run_layers(
    stack: Stack, arguments: Arguments, weights: Sequence[Tensor], frozen: Frozen | None
) -> tuple[Tensor, States]:
    """The layers in the precision they compute in, and their results in the one that is returned."""
    input = arguments.input
    dtype = _precision.result_dtype(input)
    if _precision.computed_as_is(input, dtype):
        return _run_in_turn(stack, arguments, weights, frozen)
    computed = _precision.computed_dtype(input, dtype)
    # The kernels that know extras read weights of their data's type.
    if arguments.added is not None or not autograd.reads_bfloat16(input, arguments.states or (), weights):
        weights, frozen = _precision.cast(weights, computed), None
    with _precision.without_autocast(input.device):
        if arguments.states is not None:
            arguments = arguments._replace(states=tuple(_precision.cast(arguments.states, computed)))
        if arguments.added is not None:
            resets = tuple(_precision.cast(arguments.added.reset_states, computed))
            arguments = arguments._replace(added=arguments.added._replace(reset_states=resets))
        arguments = arguments._replace(input=input.to(computed))
        output, finals = _run_in_turn(stack, arguments, weights, frozen)
    return output.to(dtype), tuple([state.to(dtype) for state in finals])


def _run_in_turn(
    stack: Stack, arguments: Arguments, weights: Sequence[Tensor], frozen: Frozen | None
) -> tuple[Tensor, States]:
    """The layers one on another: in one call, unless something speaks against it."""
    cell = stack.mode.lower()
    input, states, batch_sizes, batch, _, _, added = arguments
    num_layers, bidirectional = stack.num_layers, stack.bidirectional
    if states is None:
        rows, hidden_size = num_layers * 2 if bidirectional else num_layers, stack.hidden_size
        states = _zeros(cell, input, (rows, batch, stack.proj_size or hidden_size), hidden_size)
    if added is not None:
        data = _extended.Data.of(input, batch, batch_sizes)
        return _extended.run_in_turn(stack, input, states, weights, data, added)
    if runs_as_one(stack, weights):
        packed = frozen.whole if frozen is not None else None
        results = autograd.run_layers(cell, input, states, weights, bidirectional, batch_sizes, packed)
        return results[0], tuple(results[1:])

    finals = []
    per_layer = len(weights) // num_layers
    for index, own in enumerate(zip(*[state.split(2 if bidirectional else 1) for state in states], strict=True)):
        if index > 0 and stack.training and stack.dropout > 0:
            input = torch.dropout(input, stack.dropout, True)  # drawn as torch.nn draws it
        own_weights = weights[index * per_layer : (index + 1) * per_layer]
        packed = frozen.by_layer[index] if frozen is not None else None
        results = autograd.run_layers(cell, input, own, own_weights, bidirectional, batch_sizes, packed)
        input = results[0]
        finals.append(results[1:])
    return input, tuple([torch.cat(state) for state in zip(*finals, strict=True)])


def runs_as_one(stack: Stack, weights: Sequence[Tensor]) -> bool:
    """Whether one op runs all layers of a plain call: no dropout comes between them, and none at the bottom is frozen.

    Frozen layers below one that is trained keep nothing and have no backward in calls of their own.
    """
    if stack.num_layers == 1:
        return True
    if stack.training and stack.dropout > 0:
        return False
    return weights[0].requires_grad or not weights[-1].requires_grad or not torch.is_grad_enabled()


def _zeros(cell: str, input: Tensor, hx_shape: tuple[int, ...], hidden_size: int) -> States:
    """Initial states. One tensor serves as hx and cx where they have one shape: nothing writes to it."""
    zeros = input.new_zeros(*hx_shape)  # half the time of torch.zeros(hx_shape, dtype=..., device=...)
    if CELLS[cell].states == 1:
        return (zeros,)
    if hx_shape[-1] == hidden_size:
        return zeros, zeros
    return zeros, input.new_zeros(*hx_shape[:-1], hidden_size)


def run_cell(
    cell: str,
    input: Tensor,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    frozen: Frozen | None = None,
) -> States:
    """The one road for cells: the states after a step."""
    step, states, _, batch, *_ = cell_arguments(cell, input, hx, weights)
    if states is None:
        hidden_size = _checks.hidden_size_of(cell, weights)
        states = _zeros(cell, step, (batch, hidden_size), hidden_size)
    packed = frozen.whole if frozen is not None else None
    dtype = _precision.result_dtype(step)
    if _precision.computed_as_is(step, dtype):
        _, *finals = autograd.run_step(cell, step, states, weights, packed)
    else:
        computed = _precision.computed_dtype(step, dtype)
        if not autograd.reads_bfloat16(step, states, weights):
            weights, packed = _precision.cast(weights, computed), None
        with _precision.without_autocast(step.device):
            states = tuple(_precision.cast(states, computed))
            _, *finals = autograd.run_step(cell, step.to(computed), states, weights, packed)
        finals = [state.to(dtype) for state in finals]
    if input.dim() == 1:
        return tuple([state.squeeze(0) for state in finals])
    return tuple(finals)


def cell_arguments(
    cell: str, input: Tensor, hx: Tensor | Sequence[Tensor] | None, weights: Sequence[Tensor]
) -> Arguments:
    """The arguments of a cell's call: input (B, I), states (B, H)."""
    name = _checks.CELL_NAMES[cell]
    if not isinstance(input, Tensor):
        _checks.refuse_input_type(name, input, "Tensor")
    rank = input.dim()
    if rank not in (1, 2):
        raise ValueError(f"{name}: expected input to be 1D (I,) or 2D (B, I), got {rank}D")
    states = None if hx is None else _checks.unpack_hx(cell, name, hx)
    _checks.check_tensors(name, input, weights, states, RuntimeError)
    shape = input.shape
    _checks.check_sizes(name, 1, shape[-1], weights[0].shape[1])
    if states is not None:
        expected = (*shape[:-1], _checks.hidden_size_of(cell, weights))
        if states[0].shape != expected or (len(states) > 1 and states[1].shape != expected):
            _checks.refuse_cell_states(name, states, expected)
    if rank == 2:
        return Arguments(input, states, None, shape[0])
    return Arguments(input.unsqueeze(0), states and tuple([state.unsqueeze(0) for state in states]), None, 1)
