"""Layers that are more than torch.nn's: from a layer's options and a call's resets, its modifiers, to what the kernels
know of them (:class:`fastrnn.reference.Extras`).

Nothing here looks at a tensor's values, so a compiled graph does not break, and the host waits for no GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._ops.cells import CELLS
from .._options import Options
from ..reference import CUT_GRADIENT, CUT_STATE, Extras, States
from . import checks, ragged, random
from .arguments import Stack

# How many parameters layer normalisation has: of both products, and of c where a cell has two states.
NORM_PARAMETERS = {1: 2, 2: 4}


class Modifiers(NamedTuple):
    """What one call adds to torch.nn's: as it was given, or as :func:`in_row_order` returns it."""

    options: Options
    resets: Tensor | None = None  # (T, B) bool, in row order
    reset_state: Any = None  # in row order: of all layers, (L*D, B, features) each; none without resets
    return_states: bool = False
    activations: tuple[str, ...] = ()  # see reference.Extras


class Data(NamedTuple):
    """Where the rows of a batch lie."""

    steps: int
    batch: int
    batch_sizes: Tensor | None  # (T,), of a ragged batch
    place: tuple[Tensor, Tensor] | None  # (N,) step and batch row of each row of packed data

    @classmethod
    def of(cls, input: Tensor, batch: int, batch_sizes: Tensor | None) -> Data:
        if input.dim() == 3:
            return cls(input.shape[0], batch, batch_sizes, None)
        assert batch_sizes is not None
        step, row = ragged.places(batch_sizes, input.shape[0])
        place = step.to(input.device, non_blocking=True), row.to(input.device, non_blocking=True)
        return cls(batch_sizes.shape[0], batch, batch_sizes, place)

    def lengths(self, device: torch.device) -> Tensor:
        """(B,), of a ragged batch."""
        assert self.batch_sizes is not None
        sizes = self.batch_sizes.to(device, non_blocking=True)
        return (sizes.unsqueeze(1) > torch.arange(self.batch, device=device)).sum(0)

    def as_rows(self, tensor: Tensor) -> Tensor:
        """(T, B) to (N,): what belongs to each row of the data."""
        return tensor.flatten() if self.place is None else tensor[self.place]

    def by_sequence(self, tensor: Tensor) -> Tensor:
        """(B, F) as a factor of input: (1, B, F), or (N, F) of packed data."""
        return tensor.unsqueeze(0) if self.place is None else tensor.index_select(0, self.place[1])


def in_row_order(
    stack: Stack,
    given: Modifiers,
    states_like: tuple[int, int],
    input: Tensor,
    order: Tensor | None,
    batch_first: bool,
    batched: bool,
) -> Modifiers:
    """A call's modifiers, checked, their rows put in `order` (B,), in which rows run.

    `states_like` are T and B; `input` gives dtype and device; an input that is not `batched` is a single sequence.
    """
    cell = stack.mode.lower()
    name = checks.LAYER_NAMES[cell]
    _, resets, reset_state, return_states, _ = given
    if return_states and CELLS[cell].states == 1:
        raise ValueError(
            f"{name}: return_states returns every step's c, and only the LSTM has one. Its output is every h"
        )
    if resets is None:
        if reset_state is not None:
            raise ValueError(f"{name}: reset_state takes the place of a state where resets is True; pass resets, too")
        return given._replace(reset_state=())
    resets = _as_rows(name, resets, states_like, input.device, batch_first, batched)
    if reset_state is None:
        rows = stack.num_layers * (2 if stack.bidirectional else 1)
        zeros = input.new_zeros(rows, states_like[1], stack.proj_size or stack.hidden_size)
        # Cell states are as large as h but where h is projected; nothing writes to them.
        cell_zeros = zeros if not stack.proj_size else input.new_zeros(*zeros.shape[:2], stack.hidden_size)
        states: States = (zeros, *[cell_zeros] * (CELLS[cell].states - 1))
    else:
        states = _reset_states(name, stack, reset_state, states_like[1], input, batched)
    if order is not None:
        resets = resets.index_select(1, order)
        states = tuple([state.index_select(1, order) for state in states])
    return given._replace(resets=resets, reset_state=states)


def _as_rows(
    name: str, resets: Tensor, shape: tuple[int, int], device: torch.device, batch_first: bool, batched: bool
) -> Tensor:
    """Resets as (T, B) on the input's device."""
    if not isinstance(resets, Tensor) or resets.dtype != torch.bool:
        is_tensor = isinstance(resets, Tensor)
        kind = resets.dtype if is_tensor else type(resets).__name__
        remedy = "resets.bool()" if is_tensor else "torch.as_tensor(resets, dtype=torch.bool)"
        raise TypeError(f"{name}: resets must be a Tensor of bool, got {kind}. Convert: {remedy}")
    steps, batch = shape
    expected = (steps,) if not batched else (batch, steps) if batch_first else (steps, batch)
    if tuple(resets.shape) != expected:
        raise ValueError(f"{name}: resets must have shape {expected}, one for each step, got {tuple(resets.shape)}")
    if resets.device != device:
        resets = resets.to(device, non_blocking=True)
    if not batched:
        return resets.unsqueeze(1)
    return resets.t() if batch_first else resets


def _reset_states(
    name: str, stack: Stack, given: Tensor | Sequence[Tensor], batch: int, input: Tensor, batched: bool
) -> States:
    """A reset state as (L*D, B, features), checked: it comes in hx's shape, or with one row for all."""
    states = checks.unpack_hx(stack.mode.lower(), name, given, "reset_state", "(h, c)")
    for state in states:
        checks.check_state(name, input, state, "reset_state", "reset state")
    rows = stack.num_layers * (2 if stack.bidirectional else 1)
    whole = []
    for index, state in enumerate(states):
        size = stack.hidden_size if index else stack.proj_size or stack.hidden_size
        expected = (rows, batch, size) if batched else (rows, size)
        if tuple(state.shape) not in (expected, (rows, 1, size)):
            raise RuntimeError(
                f"{name}: reset_state must have hx's shape {expected}, or {(rows, 1, size)} for all sequences, got "
                f"{tuple(state.shape)}"
            )
        whole.append((state if state.dim() == 3 else state.unsqueeze(1)).expand(rows, batch, size))
    return with_output_state(stack.mode.lower(), tuple(whole))


def with_output_state(cell: str, states: States) -> States:
    """The states that a caller gave, and behind them what a cell puts out but does not read."""
    return (*states, torch.zeros_like(states[0])) if CELLS[cell].separate_output else states


class LayerModifiers:
    """A call's modifiers as its layers have them, one after the other."""

    def __init__(self, stack: Stack, input: Tensor, batch: int, batch_sizes: Tensor | None, given: Modifiers) -> None:
        self._stack, self._given = stack, given
        self._data = Data.of(input, batch, batch_sizes)
        self._directions = 2 if stack.bidirectional else 1
        self._resets = by_layer(given.reset_state, stack.num_layers)
        self.cell = given.options.cell(stack.mode)
        self.recompute = given.options.recompute
        tbptt_steps = given.options.tbptt_steps if torch.is_grad_enabled() else None
        self._cuts = _cuts(input, self._data, self._directions, tbptt_steps, given.resets)

    def of_layer(
        self, index: int, input: Tensor, states: States, weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], Extras | None, States]:
        """What the layer of that index is given: input, weights, extras and reset states."""
        options, training = self._given.options, self._stack.training
        if training and options.variational_dropout > 0:
            shape = (self._data.batch, input.shape[-1])
            input = input * self._data.by_sequence(random.dropout_factors(options.variational_dropout, shape, input))
        own = _effective_weights(self.cell, list(weights), self._directions, options, training)
        if options.layer_norm:
            own = per_unit_weights_joined(self.cell, own, self._directions)
        extras = None
        return_cells = CELLS[self.cell].separate_output or (
            self._given.return_states and index == self._stack.num_layers - 1
        )
        if needs_extras(self.cell, options, training, self._cuts is not None, return_cells):
            extras = _extras(self._given, training, input, states, return_cells, self._cuts)
        return input, own, extras, self._resets[index] if extras is not None else ()

    def finals_of_layer(self, index: int, finals: States) -> States:
        """The layer's final states, given the op's."""
        return _reset_at_end(finals, self._resets[index], self._given.resets, self._data)


def by_layer(states: States, layers: int) -> Sequence[States]:
    """The states (L*D, B, .) of each layer."""
    if layers == 1 or not states:
        return [states] * layers
    return list(zip(*[state.split(state.shape[0] // layers) for state in states], strict=True))


def _cuts(input: Tensor, data: Data, directions: int, tbptt_steps: int | None, resets: Tensor | None) -> Tensor | None:
    """`Extras.cuts`, (D, N). The reverse direction is cut at the same places, so before its step t by resets[t + 1]."""
    kinds = []
    for reverse in range(directions):
        kind = None
        if resets is not None:
            before = F.pad(resets[1:], (0, 0, 0, 1)) if reverse else resets
            kind = before.to(torch.uint8)  # True is CUT_STATE
        if tbptt_steps is not None:
            truncated = _truncations(input.device, data, bool(reverse), tbptt_steps)
            kind = truncated if kind is None else torch.where(before, CUT_STATE, truncated)
        if kind is None:
            return None
        kinds.append(data.as_rows(kind))
    return torch.stack(kinds) if directions > 1 else kinds[0].unsqueeze(0)


def _truncations(device: torch.device, data: Data, reverse: bool, k: int) -> Tensor:
    """(T, B) of CUT_GRADIENT before every k-th step that a direction runs, else 0."""
    steps, batch, batch_sizes, _ = data
    if not reverse or batch_sizes is None:
        cut = torch.zeros(steps, batch, dtype=torch.uint8, device=device)
        cut[slice((steps - 1) % k, steps - 1, k) if reverse else slice(k, None, k)] = CUT_GRADIENT
        return cut
    ran = data.lengths(device) - 1 - torch.arange(steps, device=device).unsqueeze(1)
    return ((ran > 0) & (ran % k == 0)).view(torch.uint8) * CUT_GRADIENT


def _reset_at_end(finals: States, reset_states: States, resets: Tensor | None, data: Data) -> States:
    """The final states: the reverse direction's is replaced if its last step, the first of the sequence, is cut off."""
    if resets is None or finals[0].shape[0] == 1:
        return finals
    cut = resets[0] if data.batch_sizes is None else resets[0] & (data.lengths(resets.device) > 0)
    return tuple(
        torch.cat([final[:1], torch.where(cut.unsqueeze(1), reset[1:], final[1:])])
        for final, reset in zip(finals, reset_states, strict=True)
    )


def _extras(
    given: Modifiers, training: bool, input: Tensor, states: States, return_cells: bool, cuts: Tensor | None
) -> Extras:
    """What the kernels add in one layer."""
    options = given.options
    zoneouts = (*options.zoneouts(len(states)), 0.0)[: len(states)]  # what is not fed back has no old value
    h_mask = None
    kept: tuple[Tensor | None, ...] = ()
    shares = zoneouts if any(zoneouts) else ()
    if training:
        rows = input.shape[0] * input.shape[1] if input.dim() == 3 else input.shape[0]

        def mask(p: float, state: Tensor) -> Tensor | None:
            return random.mask(p, (state.shape[0], rows, state.shape[2]), state) if p > 0 else None

        kept, shares = tuple(map(mask, zoneouts, states)) if any(zoneouts) else (), ()
        if options.variational_dropout > 0:
            h_mask = random.dropout_factors(options.variational_dropout, states[0].shape, states[0])
    return Extras(cuts, h_mask, kept, shares, options.state_grad_clip, return_cells, given.activations)


def needs_extras(cell: str, options: Options, training: bool, cuts: bool, return_cells: bool) -> bool:
    """Whether a layer's kernels must add something to the plain recurrence. What gradients alone see is not counted
    where none is recorded."""
    return (
        not CELLS[cell].plain
        or cuts
        or return_cells
        or (options.state_grad_clip is not None and torch.is_grad_enabled())
        or any(options.zoneouts(1))
        or (training and options.variational_dropout > 0)
    )


def _effective_weights(
    cell: str, weights: list[Tensor], directions: int, options: Options, training: bool
) -> list[Tensor]:
    """The weights that a layer's kernels multiply by: w_hh with its heads on the diagonal, and DropConnect's mask."""
    facts, each = CELLS[cell], len(weights) // directions
    if not facts.multiplies_h:
        return weights
    for direction in range(directions):
        at = direction * each + 1  # w_hh: see reference.name_weights
        if options.num_heads > 1:
            weights[at] = block_diagonal(weights[at], facts.product_gates, options.num_heads)
    return dropped_weights(weights, each, 1, options) if training else weights


def dropped_weights(weights: Sequence[Tensor], each: int, place: int, options: Options) -> list[Tensor]:
    """The weights, `each` for a direction, with DropConnect's mask on those at that place."""
    dropped = list(weights)
    for at in range(place, len(dropped), each):
        if options.weight_dropout > 0:
            factors = random.dropout_factors(options.weight_dropout, dropped[at].shape, dropped[at])
            dropped[at] = dropped[at] * factors
    return dropped


def per_unit_weights_joined(cell: str, weights: list[Tensor], directions: int) -> list[Tensor]:
    """The weights with those of layer normalisation, and peepholes, in the one tensor that the kernels take."""
    _, gates, states, _, peepholes, *_ = CELLS[cell]
    count = NORM_PARAMETERS[states] + (1 if peepholes else 0)
    each = len(weights) // directions
    joined = []
    for direction in range(directions):
        own = weights[direction * each : (direction + 1) * each]
        units = own[-1].shape[0] if states > 1 else own[-1].shape[0] // gates
        joined += [*own[:-count], torch.cat([weight.view(-1, units) for weight in own[-count:]])]
    return joined


def block_diagonal(w_hh: Tensor, gates: int, heads: int) -> Tensor:
    """(G*H, H) of which head k's rows read head k's part of h alone, from (G*H, H / heads)."""
    size = w_hh.shape[1]
    blocks = w_hh.view(gates, heads, size, 1, size)
    diagonal = torch.eye(heads, dtype=w_hh.dtype, device=w_hh.device).view(1, heads, 1, heads, 1)
    return (blocks * diagonal).view(gates * heads * size, heads * size)
