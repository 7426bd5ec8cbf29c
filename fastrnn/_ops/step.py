"""A single step of a cell, as the ops take it: input (B, I) and states (B, features), without dimensions to add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._call import precision
from . import autograd, derivatives
from .calls import Call
from .cells import CELLS, missing_kernels
from .schema import Request


def run_step(
    cell: str, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], packed: Tensor | None = None
) -> Sequence[Tensor]:
    """One step of one direction: the output and the next states. `packed` is as in :func:`autograd.run`."""
    allow_tf32 = precision.allows_tf32(input)
    if CELLS[cell].load is not None and missing_kernels(cell, input.device.type, input.dtype):
        return _run_as_layer(cell, input, states, weights)
    if autograd.is_plain_inference(input, states, weights):
        return autograd.infer(cell, (input, *states, *weights), None, False, allow_tf32, packed)
    if autograd.is_transformed(input, *states, *weights):
        return _run_as_layer(cell, input, states, weights, packed)
    call = Call(cell, bidirectional=False, batch_sizes=None, allow_tf32=allow_tf32)
    states = _apply_step(call, input, *states, *weights)
    return states[0], *states


def _run_as_layer(
    cell: str, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], packed: Tensor | None = None
) -> Sequence[Tensor]:
    of_layer = input.unsqueeze(0), [state.unsqueeze(0) for state in states]
    results = autograd.run(cell, *of_layer, weights, False, packed=packed)
    return [result.squeeze(0) for result in results]


class StepFunction(torch.autograd.Function):
    """A step in eager mode. One node of the graph, where LayerFunction needs views of the input, states and results."""

    @staticmethod
    def forward(ctx: Any, call: Call, *primals: Tensor) -> tuple[Tensor, ...]:
        output, *states, reserve = autograd.on_kernels(call.forward, primals, True)
        # All in save_for_backward: what else sits on ctx outlives backward.
        ctx.save_for_backward(*primals, output, reserve)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return tuple(states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call, needs, (*primals, output, reserve) = ctx.call, ctx.needs_input_grad[1:], ctx.saved_tensors
        given = [grad for grad in grads if grad is not None]
        if not given:
            return (None,) * (1 + len(primals))
        if torch.is_grad_enabled() or autograd.is_transformed(*given) or any(map(autograd.is_legacy_batched, given)):
            return None, *_pull_back_as_layer(call, needs, grads, primals)
        request = Request(input=needs[0], weights=any(needs[call.data :]))
        results = autograd.on_kernels(call.backward, request, (None, *grads), primals, output, reserve, True)
        return None, *derivatives.of_all_primals(call, request, results, len(primals))


# As autograd._apply_layer: it saves 2 us.
_apply_step = super(torch.autograd.Function, StepFunction).apply


def _pull_back_as_layer(
    call: Call, needs: Sequence[bool], grads: Sequence[Tensor | None], primals: Sequence[Tensor]
) -> list[Tensor | None]:
    """Gradients of the primals as of a layer's call of one step: they may be differentiated and vmapped."""
    data = call.data
    lifted = [None if grad is None else grad.unsqueeze(0) for grad in grads]
    layer = [primal.unsqueeze(0) for primal in primals[:data]] + list(primals[data:])
    results = autograd.pull_back(call, needs, (None, *lifted), layer, None, None)
    of_data = [None if result is None else result.squeeze(0) for result in results[:data]]
    return [*of_data, *results[data:]]
