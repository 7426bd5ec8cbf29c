"""How a layer is differentiated, and which way a call takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .ops import CELLS, Cell


class LayerFunction(torch.autograd.Function):
    """One layer on the fused kernels, forward and backward. Subclassed once a cell.

    Old-style (ctx first), because the new style spends 22 us a call inspecting the signature of forward.
    """

    cell: Cell

    @classmethod
    def forward(cls, ctx: Any, *args: Any) -> tuple[Tensor, ...]:  # type: ignore[override]
        raise NotImplementedError


def _function(cell: Cell) -> type[torch.autograd.Function]:
    states = cell.states

    def forward(
        ctx: Any, bidirectional: bool, batch_sizes: Tensor | None, input: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        *outputs, reserve = cell.raw_forward(
            input, *tensors[:states], tensors[states:], batch_sizes, bidirectional, True
        )
        ctx.save_for_backward(input, *tensors, outputs[0], reserve)
        ctx.bidirectional, ctx.batch_sizes = bidirectional, batch_sizes
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        input, *tensors, output, reserve = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        if all(grad is None for grad in grads):
            return (None,) * (2 + len(needs))
        weight_grads = any(needs[1 + states :])
        *grad_inputs, grad_weights = cell.raw_backward(
            *grads,
            input,
            *tensors[:states],
            tensors[states:],
            output,
            reserve,
            ctx.batch_sizes,
            ctx.bidirectional,
            needs[0],
            weight_grads,
        )
        if not needs[0]:
            grad_inputs[0] = None
        if not weight_grads:
            grad_weights = [None] * (len(needs) - 1 - states)
        return (None, None, *grad_inputs, *grad_weights)

    name = "".join(part.capitalize() for part in cell.name.split("_")) + "Function"
    return type(name, (torch.autograd.Function,), {"forward": staticmethod(forward), "backward": staticmethod(backward)})


_FUNCTIONS = {name: _function(cell) for name, cell in CELLS.items()}


def run_layer(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    bidirectional: bool,
    batch_sizes: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One layer, one or both directions: what `fastrnn.reference.layer` computes, on the fused kernels."""
    if torch.compiler.is_compiling():
        return tuple(CELLS[cell].forward(input, *states, weights, batch_sizes, bidirectional)[:-1])
    if torch.is_grad_enabled() and (
        input.requires_grad or any(t.requires_grad for t in weights) or any(t.requires_grad for t in states)
    ):
        return _FUNCTIONS[cell].apply(bidirectional, batch_sizes, input, *states, *weights)
    return tuple(CELLS[cell].raw_forward(input, *states, weights, batch_sizes, bidirectional, False)[:-1])
