"""From arguments as people give them to the one form that layers take: here ends all knowledge of unbatched input,
``batch_first`` and ``PackedSequence``. What comes out need not be contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._ops import onnx
from ..reference import States
from . import checks, ragged


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
    # (T,), of packed and ragged input: rows that run at each step; on the CPU or as input. While torch.onnx exports a
    # padded batch, its lengths (B,).
    batch_sizes: Tensor | None
    batch: int
    order: Tensor | None = None  # (B,), the permutation that sorted the rows by length
    restore: Tensor | None = None  # (B,), undoes it
    modifiers: Any = None  # what the call adds to torch.nn's: Modifiers in row order, or None
    padding: ragged.Padding | None = None  # of a padded batch that was packed


def padded_arguments(
    stack: Stack,
    input: Tensor,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: ragged.Lengths | None = None,
    batch_first: bool | None = None,
) -> Arguments:
    """The arguments of a call with a padded batch or a single sequence; batch_first is the stack's by default."""
    cell = stack.mode.lower()
    name = checks.LAYER_NAMES[cell]
    if not isinstance(input, Tensor):
        checks.refuse_input_type(name, input, "Tensor or a PackedSequence")
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
    states = None if hx is None else checks.unpack_hx(cell, name, hx)
    checks.check_tensors(name, input, weights, states, ValueError)
    steps, batch, features = input.shape
    checks.check_sizes(name, steps, features, stack.input_size)
    if states is not None:
        if rank == 2:
            _check_states(name, stack, states, ())
            states = tuple([state.unsqueeze(1) for state in states])
        else:
            _check_states(name, stack, states, (batch,))
    arguments = Arguments(input, states, None, batch)
    if lengths is None:
        return arguments
    lengths = ragged.as_tensor(name, lengths)
    ragged.check_lengths(name, lengths, steps, () if rank == 2 else (batch,), stack.batch_first)
    if ragged.is_traced() and onnx.exports():  # whose operators take them as they are
        return arguments._replace(batch_sizes=lengths.reshape(batch))
    return _sorted_by_length(arguments, lengths)


def _sorted_by_length(arguments: Arguments, lengths: Tensor) -> Arguments:
    input, states, _, batch, *_ = arguments
    if not (input.is_cuda and lengths.is_cpu):  # there the host can tell the kernels which rows to leave out
        lengths = lengths.to(input.device)
    rows = ragged.row_counts(lengths.reshape(batch), input.shape[0], input.device)
    if states is not None:
        states = tuple([state.index_select(1, rows.order) for state in states])
    if ragged.packs_padded(input):
        padding = ragged.Padding.of(rows, input)
        packed = padding.pack(input)
        return Arguments(packed, states, rows.batch_sizes, batch, rows.order, rows.restore, padding=padding)
    # The weights' gradients are products over all steps, and 0 times a NaN left in the padding is NaN. In place: the
    # sorted input is nobody else's.
    input = input.index_select(1, rows.order).masked_fill_(rows.padding.unsqueeze(2), 0.0)
    return Arguments(input, states, rows.batch_sizes, batch, rows.order, rows.restore)


def packed_arguments(
    stack: Stack,
    input: PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: ragged.Lengths | None = None,
) -> Arguments:
    """The arguments of a call with a PackedSequence."""
    cell = stack.mode.lower()
    name = checks.LAYER_NAMES[cell]
    if lengths is not None:
        checks.refuse_lengths(name, "PackedSequence")
    data, batch_sizes, sorted_indices, unsorted_indices = input
    if data.dim() != 2:
        raise RuntimeError(f"{name}: the data of a PackedSequence must have 2 dimensions, got {data.dim()}")
    states = None if hx is None else checks.unpack_hx(cell, name, hx)
    checks.check_tensors(name, data, weights, states, ValueError)
    checks.check_sizes(name, batch_sizes.shape[0], data.shape[1], stack.input_size)
    # From a shape where there is one: a tensor's value would break torch.compile's graph.
    batch = int(batch_sizes[0]) if sorted_indices is None else sorted_indices.shape[0]
    if states is not None:
        if sorted_indices is None:
            batch = batch_of(batch, states[0], 1)
        # Before the permutation: index_select would quietly drop rows of a state that has too many.
        _check_states(name, stack, states, (batch,))
        if sorted_indices is not None:
            states = tuple([state.index_select(1, sorted_indices) for state in states])
    return Arguments(data, states, batch_sizes, batch, sorted_indices, unsorted_indices)


def batch_of(read: int, tensor: Tensor, dim: int) -> int:
    """The batch of a sorted PackedSequence, read from its batch sizes: in a graph, where nothing can be decided by such
    a number, the size of a tensor that must have as many. The op refuses batch sizes above it; rows beyond do not run.
    """
    return tensor.shape[dim] if torch.compiler.is_compiling() and tensor.dim() > dim else read


def _check_states(name: str, stack: Stack, states: States, batch: tuple[int, ...]) -> None:
    """Raise unless the states measure (L*D, *batch, features); ``batch`` is (B,), or () for a single sequence."""
    rows = stack.num_layers * 2 if stack.bidirectional else stack.num_layers
    hx_shape = (rows, *batch, stack.proj_size or stack.hidden_size)
    cx_shape = (rows, *batch, stack.hidden_size)
    fits = states[0].shape == hx_shape
    for state in states[1:]:
        fits = fits and state.shape == cx_shape
    if not fits:
        checks.refuse_states(name, states, (hx_shape, *[cx_shape] * (len(states) - 1)), stack.batch_first)


def cell_arguments(
    cell: str, input: Tensor, hx: Tensor | Sequence[Tensor] | None, weights: Sequence[Tensor]
) -> Arguments:
    """The arguments of a cell's call: input (B, I), states (B, H)."""
    name = checks.CELL_NAMES[cell]
    if not isinstance(input, Tensor):
        checks.refuse_input_type(name, input, "Tensor")
    rank = input.dim()
    if rank not in (1, 2):
        raise ValueError(f"{name}: expected input to be 1D (I,) or 2D (B, I), got {rank}D")
    states = None if hx is None else checks.unpack_hx(cell, name, hx)
    checks.check_tensors(name, input, weights, states, RuntimeError)
    shape = input.shape
    checks.check_sizes(name, 1, shape[-1], weights[0].shape[1])
    if states is not None:
        expected = (*shape[:-1], checks.hidden_size_of(cell, weights))
        fits = True
        for state in states:
            fits = fits and state.shape == expected
        if not fits:
            checks.refuse_cell_states(name, states, expected)
    if rank == 2:
        return Arguments(input, states, None, shape[0])
    return Arguments(input.unsqueeze(0), states and tuple([state.unsqueeze(0) for state in states]), None, 1)
