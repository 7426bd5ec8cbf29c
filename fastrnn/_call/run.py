"""A call from the arguments people give to what they get back: all that is the same for every cell.

:func:`run_stack` serves the layers, :func:`run_cell` the cells; modules and ``fastrnn.functional`` both end here.

This runs at every call and some calls take 20 us in all, so it makes no tensor it can do without (one layer's states
are not sliced, its results not joined) and asks a tensor for no attribute twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .._ops import autograd
from .._ops.cells import CELLS
from .._ops.step import run_step
from .._options import DEFAULTS
from ..reference import States
from . import checks, precision, ragged
from .arguments import Arguments, Stack, batch_of, cell_arguments, packed_arguments, padded_arguments
from .frozen import Frozen
from .modifiers import LayerModifiers, Modifiers, by_layer, in_row_order, with_output_state


def run_stack(
    stack: Stack,
    input: Tensor | PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: ragged.Lengths | None = None,
    frozen: Frozen | None = None,
    modifiers: Modifiers | None = None,
) -> tuple[Tensor | PackedSequence, tuple[Any, ...]]:
    """The one road for layers: output and the final states, in the form in which input and hx came.

    `frozen` are the weights as they were packed, or None. Where the `modifiers` ask for every step's c, that comes
    behind the states, formed as output.
    """
    if isinstance(input, PackedSequence):
        return _run_packed(stack, input, hx, weights, lengths, frozen, modifiers)
    if isinstance(input, Tensor) and input.is_nested:
        return _run_jagged(stack, input, hx, weights, lengths, frozen, modifiers)

    arguments = padded_arguments(stack, input, hx, weights, lengths)
    if modifiers is not None:
        arguments = _with_modifiers(stack, arguments, modifiers, stack.batch_first, batched=input.dim() == 3)
    output, finals = run_layers(stack, arguments, weights, frozen)
    if arguments.restore is not None:
        output, finals = _padded(arguments, arguments.restore, output, finals)
    if input.dim() == 2:
        return output.squeeze(1), tuple([state.squeeze(1) for state in finals])
    if not stack.batch_first:
        return output, finals
    finals, cells = _split_cells(arguments, finals)
    return output.transpose(0, 1), (*finals, *[c.transpose(0, 1) for c in cells])


def _run_packed(
    stack: Stack,
    input: PackedSequence,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: ragged.Lengths | None,
    frozen: Frozen | None,
    modifiers: Modifiers | None,
) -> tuple[PackedSequence, tuple[Any, ...]]:
    arguments = packed_arguments(stack, input, hx, weights, lengths)
    if modifiers is not None:
        arguments = _with_modifiers(stack, arguments, modifiers, stack.batch_first)
    output, finals = run_layers(stack, arguments, weights, frozen)
    finals, cells = _split_cells(arguments, finals)
    packed = [PackedSequence(data, *input[1:]) for data in (output, *cells)]
    return packed[0], (*_restore(arguments, finals), *packed[1:])


def _run_jagged(
    stack: Stack,
    input: Tensor,
    hx: Tensor | Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    lengths: ragged.Lengths | None,
    frozen: Frozen | None,
    modifiers: Modifiers | None,
) -> tuple[Tensor, tuple[Any, ...]]:
    """A nested tensor (B, T, I) of layout torch.jagged; its batch is in front whatever batch_first says."""
    name = checks.LAYER_NAMES[stack.mode.lower()]
    if lengths is not None:
        checks.refuse_lengths(name, "nested tensor")
    ragged.check_jagged(name, input)
    if ragged.packs_jagged(input) and (modifiers is None or modifiers.resets is None):  # resets are padded
        sequence, source = ragged.jagged_to_packed(input)
        packed, results = _run_packed(stack, sequence, hx, weights, None, frozen, modifiers)
        jagged = [
            ragged.packed_to_jagged(result.data, source, input) if isinstance(result, PackedSequence) else result
            for result in (packed, *results)
        ]
        return jagged[0], tuple(jagged[1:])
    padded, lengths = ragged.jagged_to_padded(input)
    arguments = padded_arguments(stack, padded, hx, weights, lengths, batch_first=True)
    if modifiers is not None:
        arguments = _with_modifiers(stack, arguments, modifiers, batch_first=True)
    output, finals = run_layers(stack, arguments, weights, frozen)
    assert arguments.restore is not None
    output, finals = _padded(arguments, arguments.restore, output, finals)
    finals, cells = _split_cells(arguments, finals)
    jagged = [ragged.padded_to_jagged(padded, input) for padded in (output, *cells)]
    return jagged[0], (*finals, *jagged[1:])


def _with_modifiers(
    stack: Stack, arguments: Arguments, modifiers: Modifiers, batch_first: bool, batched: bool = True
) -> Arguments:
    input, _, batch_sizes, batch, order, *_ = arguments
    if input.dim() == 2 and order is None and isinstance(modifiers.resets, Tensor):
        batch = batch_of(batch, modifiers.resets, 0 if batch_first else 1)
    steps = input.shape[0] if input.dim() == 3 or batch_sizes is None else batch_sizes.shape[0]
    ordered = in_row_order(stack, modifiers, (steps, batch), input, order, batch_first, batched)
    return arguments._replace(batch=batch, modifiers=ordered)


def _split_cells(arguments: Arguments, finals: States) -> tuple[States, States]:
    """The final states, and every step's c if the call asked for it."""
    if arguments.modifiers is None or not arguments.modifiers.return_states:
        return finals, ()
    return finals[:-1], finals[-1:]


def _padded(arguments: Arguments, restore: Tensor, output: Tensor, finals: States) -> tuple[Tensor, States]:
    """Output and final states of a padded batch with lengths, in the order in which its rows came."""
    if arguments.padding is None:
        return output.index_select(1, restore), _restore(arguments, finals)
    finals, cells = _split_cells(arguments, finals)
    pad = arguments.padding.pad
    return pad(output), (*_restore(arguments, finals), *[pad(c) for c in cells])


def _restore(arguments: Arguments, finals: States) -> States:
    """States in the order in which their rows came; every step's c has rows in the same dimension."""
    if arguments.restore is None:
        return finals
    return tuple([state.index_select(1, arguments.restore) for state in finals])


def run_layers(
    stack: Stack, arguments: Arguments, weights: Sequence[Tensor], frozen: Frozen | None
) -> tuple[Tensor, States]:
    """The layers one on another, in one op unless something comes between them: output and final states, behind which
    stands every step's c if it is wanted."""
    input, states, batch_sizes, batch, _, _, modifiers, _ = arguments
    dtype = precision.result_dtype(input)
    if not precision.computed_as_is(input, dtype):
        return _run_in_other_precision(stack, arguments, weights, frozen, dtype)
    cell, num_layers, bidirectional = stack.mode.lower(), stack.num_layers, stack.bidirectional
    if states is None:
        rows, hidden_size = num_layers * 2 if bidirectional else num_layers, stack.hidden_size
        states = _zeros(cell, input, (rows, batch, stack.proj_size or hidden_size), hidden_size)
    elif len(states) < CELLS[cell].states:
        states = with_output_state(cell, states)
    separate_output = CELLS[cell].separate_output
    if separate_output and modifiers is None:
        modifiers = Modifiers(DEFAULTS, reset_state=())
    if modifiers is None and runs_as_one(stack, weights):
        packed = frozen.whole if frozen is not None else None
        results = autograd.run(cell, input, states, weights, bidirectional, batch_sizes, packed)
        return results[0], tuple(results[1:])

    per_layer, behind = len(weights) // num_layers, 1 + len(states)
    added = None
    if modifiers is not None:
        added = LayerModifiers(stack, input, batch, batch_sizes, modifiers)
        cell = added.cell
    finals: list[States] = []
    cells: Sequence[Tensor] = ()
    for index, own_states in enumerate(by_layer(states, num_layers)):
        if index > 0 and stack.training and stack.dropout > 0:
            input = torch.dropout(input, stack.dropout, True)  # drawn as torch.nn draws it
        own = weights[index * per_layer : (index + 1) * per_layer]
        if added is None:
            packed = frozen.by_layer[index] if frozen is not None else None
            results = autograd.run(cell, input, own_states, own, bidirectional, batch_sizes, packed)
            own_finals = tuple(results[1:])
        else:
            input, own, extras, resets = added.of_layer(index, input, own_states, own)
            results = autograd.run(
                cell, input, own_states, own, bidirectional, batch_sizes, None, extras, resets, added.recompute
            )
            own_finals, cells = added.finals_of_layer(index, tuple(results[1:behind])), results[behind:]
        input = results[0]
        if separate_output:
            input, cells = _split_output(results[0], results[behind], modifiers.return_states)
            own_finals = own_finals[:-1]
        finals.append(own_finals)
    joined = finals[0] if num_layers == 1 else tuple([torch.cat(state) for state in zip(*finals, strict=True)])
    return input, (*joined, *cells)


def _split_output(h: Tensor, cells: Tensor, return_states: bool) -> tuple[Tensor, Sequence[Tensor]]:
    """What a layer puts out, the last of every step's cell states, and, if they are wanted, all states before it."""
    columns = h.shape[-1]
    output = cells[..., -columns:]
    return output, (torch.cat([h, cells[..., :-columns]], dim=-1),) if return_states else ()


def _run_in_other_precision(
    stack: Stack, arguments: Arguments, weights: Sequence[Tensor], frozen: Frozen | None, dtype: torch.dtype
) -> tuple[Tensor, States]:
    """:func:`run_layers` in the precision that the kernels compute in, its results in `dtype`."""
    input, states, _, _, _, _, modifiers, _ = arguments
    computed = precision.computed_dtype(input, dtype)
    # The kernels that know extras read weights of their data's type.
    if modifiers is not None or not autograd.reads_bfloat16(stack.mode.lower(), input, states or (), weights):
        weights, frozen = precision.cast(weights, computed), None
    with precision.without_autocast(input.device):
        if states is not None:
            arguments = arguments._replace(states=tuple(precision.cast(states, computed)))
        if modifiers is not None:
            resets = tuple(precision.cast(modifiers.reset_state, computed))
            arguments = arguments._replace(modifiers=modifiers._replace(reset_state=resets))
        output, finals = run_layers(stack, arguments._replace(input=input.to(computed)), weights, frozen)
    return output.to(dtype), tuple([state.to(dtype) for state in finals])


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
    """Initial states. One tensor serves for all of one shape: nothing writes to it."""
    zeros = input.new_zeros(*hx_shape)  # half the time of torch.zeros(hx_shape, dtype=..., device=...)
    states = CELLS[cell].states
    if states == 1 or hx_shape[-1] == hidden_size:
        return (zeros,) * states
    return zeros, *(input.new_zeros(*hx_shape[:-1], hidden_size),) * (states - 1)


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
        hidden_size = checks.hidden_size_of(cell, weights)
        states = _zeros(cell, step, (batch, hidden_size), hidden_size)
    elif len(states) < CELLS[cell].states:
        states = with_output_state(cell, states)
    packed = frozen.whole if frozen is not None else None
    dtype = precision.result_dtype(step)
    if precision.computed_as_is(step, dtype):
        _, *finals = run_step(cell, step, states, weights, packed)
    else:
        computed = precision.computed_dtype(step, dtype)
        if not autograd.reads_bfloat16(cell, step, states, weights):
            weights, packed = precision.cast(weights, computed), None
        with precision.without_autocast(step.device):
            states = tuple(precision.cast(states, computed))
            _, *finals = run_step(cell, step.to(computed), states, weights, packed)
        finals = [state.to(dtype) for state in finals]
    if input.dim() == 1:
        return tuple([state.squeeze(0) for state in finals])
    return tuple(finals)
