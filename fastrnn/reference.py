"""Every recurrence in slow, obvious torch ops: what the kernels must equal, and what autograd differentiates.

Two users: the tests hold the kernels against it, and ``fastrnn._ops.autograd`` falls back on it where a kernel has no
derivative of its own (double backward, forward-mode AD, vmap). For the second, everything here is out of place and
looks at no tensor's values except ``batch_sizes``, so ``torch.func`` transforms pass through.

The order of a new recurrence: its cell here, a row in the tests' cases, the cell header in ``csrc/cells``, the kernels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._ops.cells import CELLS

# The nonlinearities of a cell that is told at the call, in the kernels' order (csrc/cells/activations.h).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}

States = tuple[Tensor, ...]

# What comes between a row's step and the one it ran before, in `Extras.cuts`.
CUT_STATE, CUT_GRADIENT = 1, 2


class Weights(NamedTuple):
    """The weights of one direction of a layer."""

    w_ih: Tensor
    w_hh: Any  # a Tensor, or None of a cell that multiplies no h
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None
    b_hr: Tensor | None
    peepholes: Tensor | None  # (CellFacts.peepholes, H)
    norm: Norm | None


class Norm(NamedTuple):
    """The weights of layer normalisation."""

    input: Tensor  # (G*H,), gain of W_ih x
    product: Tensor  # (G*H,), gain of W_hh h
    cell: tuple[Tensor, Tensor] | None  # (H,) each, gain and bias of c


@dataclass(frozen=True, eq=False)
class Extras:
    """What a call of one layer adds to the plain recurrence, but for reset states, which are differentiated.

    N counts the rows of the input as they lie: T * B of a padded one, sum(batch_sizes) of a packed one. K is the size
    of h. None and 0 add nothing.
    """

    # (D, N) uint8. CUT_GRADIENT: no gradient flows back from the step to the one before; CUT_STATE: the reset state
    # takes the place of what the step before left, or of hx. In each direction's own order of steps.
    cuts: Tensor | None = None
    h_mask: Tensor | None = None  # (D, B, K): factors of h_{t-1} on its way to w_hh
    # Zoneout of each state, or of none: which units keep their old value (1) or not (0), (D, N, K) of h and (D, N, H)
    # of a cell state, or the share of it that all keep.
    kept: tuple[Tensor | None, ...] = ()
    shares: tuple[float, ...] = ()
    # The gradient that arrives at a state from the step after it is clipped to [-clip, clip].
    state_grad_clip: float | None = None
    return_cells: bool = False  # every step's cell states are wanted, behind the final states
    # Of "jordan": the nonlinearities of h and of its projection; none are the identity.
    activations: tuple[str, ...] = ()


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor | None = None) -> Tensor:
    """``gain * (x - mean(x)) / sqrt(var(x) + 1e-5) + bias``, mean and variance over the last dimension.

    Source: J. Ba, J. Kiros and G. Hinton, "Layer normalization", arXiv:1607.06450.
    """
    return F.layer_norm(x, gain.shape, gain, bias, 1e-5)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor | None) -> Tensor:
    """``W x + b``, with a gain (G*H,) ``LN(W x) + b``: see :func:`layer_norm`."""
    if gain is None:
        return F.linear(x, weight, bias)
    return layer_norm(F.linear(x, weight), gain, bias)


def elman_cell(
    x_gates: Tensor,
    h: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    gain: Tensor | None = None,
) -> Tensor:
    """One step of the simple recurrence: ``h' = activation(W_ih x + b_ih + W_hh h + b_hh)``.

    Source: J. L. Elman, "Finding structure in time", Cognitive Science 14 (1990), in the form of ``torch.nn.RNN``.

    Args:
        x_gates: (B, H), the input's share ``W_ih x + b_ih``.
        h: (B, H).
        w_hh: (H, H).
        b_hh: (H,) or None.
        activation: applied to the sum.
        gain: of W_hh h in :func:`product`, or None.
    Returns:
        (B, H).
    """
    return activation(x_gates + product(h, w_hh, b_hh, gain))


def lstm_cell(
    x_gates: Tensor,
    h: Tensor,
    c: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    w_hr: Tensor | None = None,
    w_c: Tensor | None = None,
    coupled: bool = False,
    norm: Norm | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of the LSTM, gates in the order i, f, g, o.

    ::

        i = sigmoid(W_ii x + b_ii + W_hi h + b_hi)      c' = f * c + i * g
        f = sigmoid(W_if x + b_if + W_hf h + b_hf)      h' = o * tanh(c')            without w_hr
        g =    tanh(W_ig x + b_ig + W_hg h + b_hg)      h' = W_hr (o * tanh(c'))     with w_hr
        o = sigmoid(W_io x + b_io + W_ho h + b_ho)

    With w_c, peepholes: ``w_ci * c``, ``w_cf * c`` and ``w_co * c'`` are added within the sigmoids of i, f and o.
    Coupled: ``f = 1 - i``, and the gates are i, g, o, the peepholes those of i and o. With norm, ``W_hh h`` is
    normalised over all gates (:func:`product`), and ``tanh(LN(c'))`` takes the place of ``tanh(c')``.

    Source: S. Hochreiter and J. Schmidhuber, "Long short-term memory" (1997), with the forget gate of F. Gers et al.
    (2000); the projection is that of H. Sak et al., arXiv:1402.1128. The form is that of ``torch.nn.LSTM``. Peepholes:
    F. Gers and J. Schmidhuber, "Recurrent nets that time and count" (2000). Coupled gates: K. Greff et al., "LSTM: a
    search space odyssey", arXiv:1503.04069.

    Args:
        x_gates: (B, G*H), the input's share ``W_ih x + b_ih``; G is 4, or 3 where coupled.
        h: (B, H), or (B, P) with a projection.
        c: (B, H).
        w_hh: (G*H, H), or (G*H, P).
        b_hh: (G*H,) or None.
        w_hr: (P, H) or None.
        w_c: (3, H) for i, f, o, where coupled (2, H) for i, o, or None.
        coupled: whether the forget gate is 1 - i.
        norm: the weights of layer normalisation, or None.
    Returns:
        h' of h's shape, c' of c's.
    """
    gates = (x_gates + product(h, w_hh, b_hh, norm and norm.product)).chunk(3 if coupled else 4, dim=-1)
    i, g, o = gates[0], gates[-2], gates[-1]
    if w_c is not None:
        i = i + w_c[0] * c
    i = torch.sigmoid(i)
    if coupled:
        f = 1 - i
    else:
        f = torch.sigmoid(gates[1] if w_c is None else gates[1] + w_c[1] * c)
    c = f * c + i * torch.tanh(g)
    inner = layer_norm(c, *norm.cell) if norm is not None and norm.cell is not None else c
    h = torch.sigmoid(o if w_c is None else o + w_c[-1] * c) * torch.tanh(inner)
    return (h if w_hr is None else F.linear(h, w_hr)), c


def gru_cell(
    x_gates: Tensor,
    h: Tensor,
    w_hh: Tensor,
    b_hh: Tensor | None,
    h_mask: Tensor | None = None,
    reset_after: bool = True,
    gain: Tensor | None = None,
) -> Tensor:
    """One step of the GRU, gates in the order r, z, n.

    ::

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n =    tanh(W_in x + b_in + r * (W_hn h + b_hn))        with reset_after
        n =    tanh(W_in x + b_in + W_hn (r * h) + b_hn)        without
        h' = (1 - z) * n + z * h

    Source: K. Cho et al., arXiv:1406.1078, whose form is the second; in ``torch.nn.GRU`` and cuDNN the reset gate is
    applied after the product with W_hn: the two biases of n cannot be summed beforehand.

    Args:
        x_gates: (B, 3H), the input's share ``W_ih x + b_ih``.
        h: (B, H).
        w_hh: (3H, H).
        b_hh: (3H,) or None.
        h_mask: (B, H) factors of h where w_hh multiplies it, or None.
        reset_after: whether r is applied after the product.
        gain: of W_hh h in :func:`product`, or None; with reset_after.
    Returns:
        (B, H).
    """
    x_r, x_z, x_n = x_gates.chunk(3, dim=-1)

    def recurrent(of: Tensor, begin: int, end: int) -> Tensor:
        rows = slice(begin * h.shape[-1], end * h.shape[-1])
        bias = None if b_hh is None else b_hh[rows]
        return product(of if h_mask is None else of * h_mask, w_hh[rows], bias, gain)

    if reset_after:
        h_r, h_z, h_n = recurrent(h, 0, 3).chunk(3, dim=-1)
    else:
        h_r, h_z = recurrent(h, 0, 2).chunk(2, dim=-1)
    r = torch.sigmoid(x_r + h_r)
    z = torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n if reset_after else x_n + recurrent(r * h, 2, 3))
    return (1 - z) * n + z * h


def jordan_cell(
    x_gates: Tensor,
    o: Tensor,
    w_oh: Tensor,
    b_h: Tensor | None,
    w_ho: Tensor | None,
    b_o: Tensor | None,
    activation: str,
    output_activation: str,
) -> Tensor:
    """One step of a simple recurrence whose output comes back: ``h = s_h(W_xh x + W_oh o + b_h)``.

    ``o' = s_o(W_ho h + b_o)``, or ``o' = h`` where there is no w_ho.

    Source: M. I. Jordan, "Serial order: a parallel distributed processing approach" (1986).

    Args:
        x_gates: (B, H), the input's share ``W_xh x``.
        o: (B, P), or (B, H) without w_ho.
        w_oh: (H, P), or (H, H).
        b_h: (H,) or None.
        w_ho: (P, H) or None.
        b_o: (P,) or None.
        activation, output_activation: s_h and s_o, of ``ACTIVATIONS``.
    Returns:
        o', of o's shape.
    """
    h = elman_cell(x_gates, o, w_oh, b_h, ACTIVATIONS[activation])
    return h if w_ho is None else ACTIVATIONS[output_activation](F.linear(h, w_ho, b_o))


Activations = tuple[str, ...]


def _elman_step(
    activation: Callable[[Tensor], Tensor], x_gates: Tensor, states: States, weights: Weights, h_mask: Tensor | None
) -> States:
    h = states[0] if h_mask is None else states[0] * h_mask
    gain = weights.norm and weights.norm.product
    return (elman_cell(x_gates, h, weights.w_hh, weights.b_hh, activation, gain),)


def _lstm_step(coupled: bool, x_gates: Tensor, states: States, weights: Weights, h_mask: Tensor | None) -> States:
    h = states[0] if h_mask is None else states[0] * h_mask
    w_hh, b_hh, w_hr = weights.w_hh, weights.b_hh, weights.w_hr
    return lstm_cell(x_gates, h, states[1], w_hh, b_hh, w_hr, weights.peepholes, coupled, weights.norm)


def _gru_step(reset_after: bool, x_gates: Tensor, states: States, weights: Weights, h_mask: Tensor | None) -> States:
    gain = weights.norm and weights.norm.product
    return (gru_cell(x_gates, states[0], weights.w_hh, weights.b_hh, h_mask, reset_after, gain),)


def _jordan_step(
    x_gates: Tensor, states: States, weights: Weights, h_mask: Tensor | None, activations: Activations
) -> States:
    h = states[0] if h_mask is None else states[0] * h_mask
    _, w_hh, _, b_hh, w_hr, b_hr, *_ = weights
    return (jordan_cell(x_gates, h, w_hh, b_hh, w_hr, b_hr, *(activations or ("identity", "identity"))),)


# By cell without layer normalisation (CellFacts.inner): one step from what the input brings, states and weights.
STEPS: dict[str, Callable[..., States]] = {
    "rnn_tanh": partial(_elman_step, torch.tanh),
    "rnn_relu": partial(_elman_step, torch.relu),
    "lstm": partial(_lstm_step, False),
    "lstm_peephole": partial(_lstm_step, False),
    "lstm_coupled": partial(_lstm_step, True),
    "lstm_coupled_peephole": partial(_lstm_step, True),
    "gru": partial(_gru_step, True),
    "gru_reset_before": partial(_gru_step, False),
    "jordan": _jordan_step,
}


def step(
    cell: str,
    x_gates: Tensor,
    states: States,
    weights: Weights,
    h_mask: Tensor | None = None,
    activations: Activations = (),
) -> States:
    """One step of any cell: the states after it, h first. h_mask (B, K): factors of h where w_hh multiplies it."""
    if cell not in CELLS:
        raise ValueError(f"unknown cell {cell!r}: choose one of {', '.join(CELLS)}")
    told = (activations,) if cell == "jordan" else ()
    return STEPS[CELLS[cell].inner](x_gates, states, weights, h_mask, *told)


def layer(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    bidirectional: bool,
    batch_sizes: Tensor | None = None,
    extras: Extras | None = None,
    reset_states: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """One layer over a whole sequence, in one direction or both (D = 1 or 2).

    Args:
        cell: one of ``fastrnn._ops.cells.CELLS``.
        input: (T, B, I). With ``batch_sizes`` also packed, (N, I) with N = sum(batch_sizes), as in ``PackedSequence``.
        states: hx (D, B, H), or (D, B, P) with a projection, and the cell states (D, B, H): the LSTM's (hx, cx).
        weights: a direction's ``w_ih, w_hh, b_ih, b_hh, w_hr, b_hr``, then the other's; see :func:`name_weights`.
        bidirectional: whether there is a reverse direction.
        batch_sizes: (T,) integers, not increasing, none above B: at step t only the first ``batch_sizes[t]`` rows are
            there. The others keep their state, and of a padded input their output is zero. Read here, on the host.
        extras: what is added to the plain recurrence, if anything.
        reset_states: shaped as ``states``, what takes their place at ``CUT_STATE``.

    Returns:
        output, (T, B, D*H) or (N, D*H), with P for H under a projection, then the final states, shaped as ``states``,
        then with ``extras.return_cells`` every step's cell states, (T, B, S*D*H) or (N, S*D*H) of S: the first one's of
        all directions, then the next one's.
    """
    extras = extras or Extras()
    directions = 2 if bidirectional else 1
    rows = None if batch_sizes is None else batch_sizes.tolist()
    per_direction = len(weights) // directions
    results = [
        _direction(
            cell,
            input,
            tuple(state[d] for state in states),
            weights[d * per_direction : (d + 1) * per_direction],
            reverse=d == 1,
            rows=rows,
            extras=DirectionExtras(extras, d, tuple(state[d] for state in reset_states)),
        )
        for d in range(directions)
    ]
    finals = (torch.stack([r[1][s] for r in results]) for s in range(len(states)))
    output = torch.cat([r[0] for r in results], dim=-1)
    if not extras.return_cells:
        return (output, *finals)
    cells = itertools.chain(*zip(*(r[2] for r in results), strict=True))
    return (output, *finals, torch.cat(list(cells), dim=-1))


def layers(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    bidirectional: bool,
    batch_sizes: Tensor | None = None,
    extras: Extras | None = None,
    reset_states: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """:func:`layer`, and others on it with nothing between them: as many as the states (L*D, B, .) have rows for.

    Weights are those of each layer, one after the other. Extras and reset states are those of a single layer.
    """
    directions = 2 if bidirectional else 1
    count = states[0].shape[0] // directions
    if count == 1:
        return layer(cell, input, states, weights, bidirectional, batch_sizes, extras, reset_states)
    each = len(weights) // count
    finals = []
    for index, own in enumerate(zip(*(state.split(directions) for state in states), strict=True)):
        own_weights = weights[index * each : (index + 1) * each]
        input, *after = layer(cell, input, own, own_weights, bidirectional, batch_sizes)
        finals.append(after)
    return input, *(torch.cat(parts) for parts in zip(*finals, strict=True))


class _ClipGradient(torch.autograd.Function):
    """The identity, whose gradient is clipped to [-limit, limit]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor, limit: float) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.clamp(-ctx.limit, ctx.limit), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, limit: None) -> Tensor:
        return tangent.view_as(tangent)


class DirectionExtras:
    """The extras of one direction, step by step."""

    def __init__(self, extras: Extras, direction: int, reset_states: States) -> None:
        def of_direction(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[direction]

        self.cuts, self.h_mask = of_direction(extras.cuts), of_direction(extras.h_mask)
        self.kept, self.shares = tuple(map(of_direction, extras.kept)), extras.shares
        self.clip = extras.state_grad_clip
        self.activations = extras.activations
        self.reset_states = reset_states

    def start(self, states: States, at: int, ran_before: int) -> States:
        """The states (n, .) that a step starts from, whose first row is row `at` of the data.

        Of the rows, `ran_before` ran the step before; the others start from hx, and nothing cuts that.
        """
        n = states[0].shape[0]
        if self.cuts is not None:
            cuts = F.pad(self.cuts[at : at + ran_before], (0, n - ran_before)).unsqueeze(1)
            states = tuple(torch.where(cuts == CUT_GRADIENT, s.detach(), s) for s in states)
            if self.reset_states:
                pairs = zip(states, self.reset_states, strict=True)
                states = tuple(torch.where(cuts == CUT_STATE, reset[:n], s) for s, reset in pairs)
        if self.clip is not None:
            states = tuple(_ClipGradient.apply(state, self.clip) for state in states)
        return states

    def finish(self, old: States, new: States, at: int) -> States:
        """The states after a step, given the cell's: zoneout."""
        n = new[0].shape[0]
        finished = []
        for before, after, kept, share in itertools.zip_longest(old, new, self.kept, self.shares):
            how = share if kept is None else kept[at : at + n]
            finished.append(after + how * (before - after) if kept is not None or share else after)
        return tuple(finished)


def _direction(
    cell: str,
    input: Tensor,
    states: States,
    weights: Sequence[Tensor],
    reverse: bool,
    rows: list[int] | None,
    extras: DirectionExtras,
) -> tuple[Tensor, States, States]:
    """One direction: output (T, B, H) or (N, H), the final states, each (B, H), and every step's cell states."""
    named = name_weights(cell, weights)
    x_gates = _input_gates(cell, input, named, states[0].shape[-1])
    packed = input.dim() == 2
    by_step = x_gates.split(rows) if packed and rows is not None else x_gates.unbind(0)
    batch = states[0].shape[0]
    offsets = [0, *itertools.accumulate(step_gates.shape[0] for step_gates in by_step)]
    by_time: list[States] = []
    ran_before = batch  # the first step is cut from hx as the others from the step before
    for t in reversed(range(len(by_step))) if reverse else range(len(by_step)):
        n = batch if rows is None else rows[t]
        old = extras.start(tuple(s[:n] for s in states), offsets[t], min(n, ran_before))
        h_mask = None if extras.h_mask is None else extras.h_mask[:n]
        new = step(cell, by_step[t][:n], old, named, h_mask, extras.activations)
        live = extras.finish(old, new, offsets[t])
        # Rows at or past n are beyond their sequence's end (or, in reverse, before its start): their state waits.
        states = live if n == batch else tuple(torch.cat([new, old[n:]]) for new, old in zip(live, states, strict=True))
        by_time.append(live if packed or n == batch else tuple(F.pad(s, (0, 0, 0, batch - n)) for s in live))
        ran_before = n
    if reverse:
        by_time.reverse()
    join = torch.cat if packed else torch.stack
    output, *cells = map(join, zip(*by_time, strict=True))
    return output, states, tuple(cells)


def _input_gates(cell: str, input: Tensor, weights: Weights, hidden_size: int) -> Tensor:
    """What the input brings to every step: W_ih x + b_ih, and behind that x itself if the cell reads it."""
    bias, facts = weights.b_ih, CELLS[cell]
    if not facts.reads_input:
        return product(input, weights.w_ih, bias, weights.norm and weights.norm.input)
    if weights.w_ih.shape[0] == facts.product_gates * hidden_size:
        return torch.cat([product(input, weights.w_ih, bias, None), input], dim=-1)
    padded = None if bias is None else F.pad(bias, (0, hidden_size))  # x itself is projected without one
    return product(input, weights.w_ih, padded, None)


def name_weights(cell: str, weights: Sequence[Tensor]) -> Weights:
    """The weights of one direction by name, None for those it lacks; their number tells which are there.

    2: no bias; 3: no bias, a projection; 4: biases; 5: biases and a projection; 6: biases and a projection with a bias.
    A cell that multiplies no h has only w_ih and perhaps b_ih. Behind them stand the unit weights of a cell that has
    some.
    """
    _, gates, _, _, peepholes, norms, multiplies_h, *_ = CELLS[cell]
    matrices = weights[:-1] if peepholes + norms else weights
    count = len(matrices)
    units = weights[-1][:peepholes] if peepholes else None
    if not multiplies_h:
        return Weights(weights[0], None, weights[1] if count == 2 else None, None, None, None, units, None)
    b_ih, b_hh = (weights[2], weights[3]) if count >= 4 else (None, None)
    w_hr, b_hr = (*matrices[4 if count >= 4 else 2 :], None, None)[:2]
    norm = None
    if norms:
        of_input, of_product, *of_cell = weights[-1][peepholes:].split((gates, gates, *[1] * (norms - 2 * gates)))
        gain_and_bias = (of_cell[0].flatten(), of_cell[1].flatten()) if of_cell else None
        norm = Norm(of_input.flatten(), of_product.flatten(), gain_and_bias)
    return Weights(weights[0], weights[1], b_ih, b_hh, w_hr, b_hr, units, norm)
