"""Gradients of the public ops, for torch.compile, torch.export and direct callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import derivatives
from ._calls import Call, call_of_backward, call_of_forward
from .ops import CELLS, Cell, Request
from .reference import PLAIN_CELLS


def _save(ctx: Any, call: Call, tensors: Sequence[Tensor | None]) -> None:
    ctx.save_for_backward(call.batch_sizes, *call.masks(), *tensors)
    ctx.call = replace(call.without_masks(), batch_sizes=None)


def _saved(ctx: Any) -> tuple[Call, Sequence[Tensor]]:
    batch_sizes, *tensors = ctx.saved_tensors
    count = len(ctx.call.masks())
    return replace(ctx.call.with_masks(tensors[:count]), batch_sizes=batch_sizes), tensors[count:]


def _as_arguments(call: Call, of_primals: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """Gradients of the primals as a forward op's arguments lie; its settings have none."""
    return *call.primal_arguments(of_primals), *(None,) * len(call.settings())


def _register(cell: Cell, name: str, plain: bool) -> None:
    def forward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        call, primals = call_of_forward(cell, plain, inputs)
        _save(ctx, call, (output[0], output[-1], *primals))
        ctx.set_materialize_grads(False)

    def forward_backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        call, (output, reserve, *primals) = _saved(ctx)
        given = call.flat_outputs(grads[:-1])
        if all(grad is None for grad in given):
            return _as_arguments(call, [None] * len(primals))
        needs = call.flat_primals(ctx.needs_input_grad)
        request = Request(input=needs[0], weights=any(needs[call.data :]))
        results = call.backward(request, given, primals, output, reserve, raw=False)
        return _as_arguments(call, derivatives.of_all_primals(call, request, results, len(primals)))

    def backward_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        call, ctx.request, grads, primals = call_of_backward(cell, plain, inputs)
        _save(ctx, call, (*grads, *primals))

    def backward_backward(ctx: Any, *grad_grads: Any) -> tuple[Any, ...]:
        call, tensors = _saved(ctx)
        grads, primals = tensors[: call.outputs], tensors[call.outputs :]
        given = derivatives.requested(call, ctx.request, call.flat_primals(grad_grads))
        results = derivatives.double_backward(call, ctx.request, grads, primals, given)
        of_grads, of_primals = results[: call.outputs], results[call.outputs :]
        others = 2 + len(call.settings()) + len(Request._fields)  # output and reserve are among them
        return *call.grad_arguments(of_grads), *call.primal_arguments(of_primals), *(None,) * others

    torch.library.register_autograd(f"{name}_forward", forward_backward, setup_context=forward_context)
    torch.library.register_autograd(f"{name}_backward", backward_backward, setup_context=backward_context)


for _cell in CELLS.values():
    if _cell.name in PLAIN_CELLS:
        _register(_cell, f"fastrnn::{_cell.name}", plain=True)
    _register(_cell, f"fastrnn::{_cell.name}_extended", plain=False)
