"""The operators ``torch.ops.fastrnn.*``, with fake kernels for tracing.

torch.compile and torch.export see the public pair `forward`, `backward`, but for inference on bfloat16 weights. In
eager mode `fastrnn._ops.autograd` calls
the same kernels bare: `_forward`, `_backward`, and `_infer`, which keeps nothing for backward; where a call has no
extras (:class:`fastrnn.reference.Extras`) `_plain_forward` and so on, whose tensors are in one list. `_pack` packs
weights for `_plain_infer`, on the CPU; `_plan` tells how a call will run. The first argument of each is the cell, a
name of ``CELLS``. `_random_mask` knows of none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _native
from .cells import facts_of

_LIBRARY = torch.ops.fastrnn

forward, backward = _LIBRARY.forward.default, _LIBRARY.backward.default
raw_forward, raw_backward, infer = _LIBRARY._forward.default, _LIBRARY._backward.default, _LIBRARY._infer.default
plain_forward, plain_backward = _LIBRARY._plain_forward.default, _LIBRARY._plain_backward.default
plain_infer, pack, plan = _LIBRARY._plain_infer.default, _LIBRARY._pack.default, _LIBRARY._plan.default


class Request(NamedTuple):
    """Which gradients a backward op is asked for, beyond those of the states.

    With `groups` > 0 it returns one gradient of the weights for each group, stacked in front; row b of the batch
    belongs to group b % groups.
    """

    input: bool
    weights: bool
    groups: int = 0


def _empty(like: Tensor, *leading: int) -> Tensor:
    return like.new_empty((*leading, *like.shape))


def _fake_results(input: Tensor, states: Sequence[Tensor], bidirectional: bool) -> tuple[Tensor, list[Tensor]]:
    features = (2 if bidirectional else 1) * states[0].shape[-1]
    return input.new_empty((*input.shape[:-1], features)), [_empty(state) for state in states]


def _fake_reserve(
    cell: str, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], bidirectional: bool
) -> Tensor:
    hx, last = states[0], 2 if bidirectional else 1
    rows = input.shape[0] * (input.shape[1] if input.dim() == 3 else 1)
    hidden_size = facts_of(cell).hidden_size(hx, weights[0])
    lower = (hx.shape[0] if hx.dim() == 3 else 1) - last  # directions of layers below the last

    def values(handed_on: int) -> int:
        return _native.reserve_values(cell, input.dtype, rows, hidden_size, handed_on)

    return input.new_empty((lower * values(hx.shape[-1]) + last * values(0),))


def _fake_infer(
    cell: str,
    input: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    allow_tf32: bool,
    cuts: Tensor | None,
    h_mask: Tensor | None,
    kept: list[Tensor] | None,
    shares: list[float] | None,
    state_grad_clip: float | None,
    return_cells: bool,
    activations: list[int] | None,
) -> tuple[Any, ...]:
    facts = facts_of(cell)
    features = (facts.states - 1) * (2 if bidirectional else 1) * facts.hidden_size(states[0], weights[0])
    cells = input.new_empty((*input.shape[:-1], features) if return_cells else (0,))
    return *_fake_results(input, states[: facts.states], bidirectional), cells


def _fake_forward(
    cell: str,
    input: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    *others: Any,
) -> tuple[Any, ...]:
    outputs = _fake_infer(cell, input, states, weights, batch_sizes, bidirectional, *others)
    return *outputs, _fake_reserve(cell, input, states, weights, bidirectional)


def _fake_backward(
    cell: str,
    grad_output: Tensor | None,
    grad_final_states: list[Tensor | None],
    grad_cells: Tensor | None,
    output: Tensor,
    reserve: Tensor,
    input_grad: bool,
    weight_grads: bool,
    groups: int,
    input: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    *settings: Any,
) -> tuple[Any, ...]:
    return _fake_grads(input, states, weights, input_grad, weight_grads, groups)


def _fake_grads(
    input: Tensor, states: list[Tensor], weights: list[Tensor], input_grad: bool, weight_grads: bool, groups: int
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    leading = (groups,) if groups else ()
    return (
        _empty(input) if input_grad else input.new_empty((0,)),
        [_empty(state) for state in states],
        [_empty(weight, *leading) for weight in weights] if weight_grads else [],
    )


def _split(cell: str, primals: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    states = facts_of(cell).states
    return primals[0], primals[1 : 1 + states], primals[1 + states :]


def _fake_plain_infer(
    cell: str,
    primals: list[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    allow_tf32: bool,
    packed: Tensor | None,
) -> list[Tensor]:
    input, states, _ = _split(cell, primals)
    output, finals = _fake_results(input, states, bidirectional)
    return [output, *finals]


def _fake_plain_forward(
    cell: str, primals: list[Tensor], batch_sizes: Tensor | None, bidirectional: bool, allow_tf32: bool
) -> list[Tensor]:
    input, states, weights = _split(cell, primals)
    output, finals = _fake_results(input, states, bidirectional)
    return [output, *finals, _fake_reserve(cell, input, states, weights, bidirectional)]


def _fake_plain_backward(
    cell: str,
    primals: list[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    allow_tf32: bool,
    grads: list[Tensor | None],
    output: Tensor,
    reserve: Tensor,
    input_grad: bool,
    weight_grads: bool,
    groups: int,
) -> list[Tensor]:
    of_input, of_states, of_weights = _fake_grads(*_split(cell, primals), input_grad, weight_grads, groups)
    return [of_input, *of_states, *of_weights]


FAKES: dict[Any, Callable[..., Any]] = {
    forward: _fake_forward,
    raw_forward: _fake_forward,
    backward: _fake_backward,
    raw_backward: _fake_backward,
    infer: _fake_infer,
    plain_forward: _fake_plain_forward,
    plain_backward: _fake_plain_backward,
    plain_infer: _fake_plain_infer,
}
for _op, _fake in FAKES.items():
    torch.library.register_fake(_op.name())(_fake)
