"""What a call computes, for ``torch.utils.flop_counter.FlopCounterMode``: 2 * M * N * K for each product of matrices,
as torch counts its own, and nothing else.

Rows count as they lie: T * B of a padded batch, and those that there are of packed data, as a batch with lengths is on
the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import flat  # noqa: F401  (defines some of the ops)
from .cells import facts_of


def _products(
    cell: str, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], bidirectional: bool
) -> tuple[int, int, int]:
    """Operations of all products in one pass: the lowest layer's with its input, other layers' with theirs, and those
    of the steps (w_hh, and w_hr of a projection)."""
    hx, directions = states[0], 2 if bidirectional else 1
    rows = math.prod(input.shape[:-1])
    lines = directions * (hx.shape[0] // directions if hx.dim() == 3 else 1)  # one direction of one layer each
    per_line = len(weights) // lines
    facts = facts_of(cell)
    own: list[Sequence[Tensor]] = [weights[first : first + per_line] for first in range(0, len(weights), per_line)]
    if facts.peepholes or facts.norm_weights:  # the last one is of single units
        own = [line[:-1] for line in own]
    of_inputs = [2 * rows * line[0].numel() for line in own]
    of_steps = [2 * rows * weight.numel() for line in own for weight in line[1:] if weight.dim() == 2]
    return sum(of_inputs[:directions]), sum(of_inputs[directions:]), sum(of_steps)


def _forward(
    cell: str, input: Tensor, states: Any, weights: Any, batch_sizes: Any, bidirectional: bool, *_: Any, **__: Any
) -> int:
    return sum(_products(cell, input, states, weights, bidirectional))


def _backward_of(products: tuple[int, int, int], input_grad: bool, weight_grads: bool) -> int:
    """The gradients of inputs and of h take what forward took, and so do those of weights."""
    lowest, others, steps = products
    return lowest * input_grad + others + steps + sum(products) * weight_grads


def _backward(*arguments: Any, **result: Any) -> int:
    cell, _, _, _, _, _, input_grad, weight_grads, _, input, states, weights, _, bidirectional, *_ = arguments
    return _backward_of(_products(cell, input, states, weights, bidirectional), input_grad, weight_grads)


def _plain_forward(cell: str, primals: Any, batch_sizes: Any, bidirectional: bool, *_: Any, **__: Any) -> int:
    return sum(_products(cell, *_split(cell, primals), bidirectional))


def _plain_backward(*arguments: Any, **result: Any) -> int:
    cell, primals, _, bidirectional, _, _, _, _, input_grad, weight_grads, _ = arguments
    return _backward_of(_products(cell, *_split(cell, primals), bidirectional), input_grad, weight_grads)


def _split(cell: str, primals: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    behind = 1 + facts_of(cell).states
    return primals[0], primals[1:behind], primals[behind:]


_OPS, _FLAT = torch.ops.fastrnn, torch.ops.fastrnn_flat
_FORMULAS: dict[Callable[..., int], list[Any]] = {
    _forward: [_OPS.forward, _OPS._forward, _OPS._infer, _FLAT.forward],
    _backward: [_OPS.backward, _OPS._backward, _FLAT.backward],
    _plain_forward: [_OPS._plain_forward, _OPS._plain_infer],
    _plain_backward: [_OPS._plain_backward],
}
for _formula, _ops in _FORMULAS.items():
    register_flop_formula(_ops, get_raw=True)(_formula)
