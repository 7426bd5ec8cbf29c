"""Gradients of the public ops, for torch.compile, torch.export and direct callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import derivatives, flat
from .calls import Call
from .schema import Request


def _save(ctx: Any, call: Call, tensors: Sequence[Tensor | None]) -> None:
    ctx.save_for_backward(call.batch_sizes, *call.masks(), *tensors)
    ctx.call = replace(call.without_masks(), batch_sizes=None)


def _saved(ctx: Any) -> tuple[Call, Sequence[Tensor]]:
    batch_sizes, *tensors = ctx.saved_tensors
    count = len(ctx.call.masks())
    return replace(ctx.call.with_masks(tensors[:count]), batch_sizes=batch_sizes), tensors[count:]


def _forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    call, primals = Call.of_forward(inputs)
    _save(ctx, call, (output[0], output[-1], *primals))
    ctx.set_materialize_grads(False)


def _forward_backward(ctx: Any, of_output: Any, of_finals: Any, of_cells: Any, _of_reserve: Any) -> tuple[Any, ...]:
    call, (output, reserve, *primals) = _saved(ctx)
    given = (of_output, *of_finals, *([of_cells] if call.returns_cells else []))
    if all(grad is None for grad in given):
        return call.as_forward_arguments([None] * len(primals))
    _cell, input_needed, _states, weights_needed, *_ = ctx.needs_input_grad
    request = Request(input=input_needed, weights=any(weights_needed))
    results = call.backward(request, given, primals, output, reserve, raw=False)
    return call.as_forward_arguments(derivatives.of_all_primals(call, request, results, len(primals)))


def _backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    call, ctx.request, grads, primals = Call.of_backward(inputs)
    _save(ctx, call, (*grads, *primals))


def _backward_backward(ctx: Any, of_input: Any, of_states: Any, of_weights: Any) -> tuple[Any, ...]:
    call, tensors = _saved(ctx)
    grads, primals = tensors[: call.outputs], tensors[call.outputs :]
    given = derivatives.requested(call, ctx.request, [of_input, *of_states, *of_weights])
    results = derivatives.double_backward(call, ctx.request, grads, primals, given)
    return call.as_backward_arguments(results[: call.outputs], results[call.outputs :])


torch.library.register_autograd("fastrnn::forward", _forward_backward, setup_context=_forward_context)
torch.library.register_autograd("fastrnn::backward", _backward_backward, setup_context=_backward_context)


def _flat_forward_backward(ctx: Any, of_output: Any, of_finals: Any, of_cells: Any, of_reserve: Any) -> tuple[Any, ...]:
    call, (_output, _reserve, *primals) = _saved(ctx)
    _, states, _, _ = call.split(primals)
    finals = [None] * len(states) if of_finals is None else flat.split(of_finals, states)
    return _forward_backward(ctx, of_output, finals, of_cells, of_reserve)


def _flat_backward_backward(ctx: Any, of_input: Any, of_states: Any, of_weights: Any) -> tuple[Any, ...]:
    call, tensors = _saved(ctx)
    _, states, resets, weights = call.split(tensors[call.outputs :])
    return _backward_backward(
        ctx, of_input, flat.split(of_states, [*states, *resets]), flat.split(of_weights, weights, ctx.request.groups)
    )


torch.library.register_autograd("fastrnn_flat::forward", _flat_forward_backward, setup_context=_forward_context)
torch.library.register_autograd("fastrnn_flat::backward", _flat_backward_backward, setup_context=_backward_context)
