"""Derivatives of a call as formulas over torch ops, for whatever the fused kernels do not differentiate themselves:
the second backward, forward-mode AD, and torch.func transforms of either.

Everything here computes again from the call's inputs. A formula that read the reserve would be wrong as soon as it is
differentiated: the reserve depends on the inputs in a way that autograd does not see.

On every device the formulas compute half types in float32, and float32 as torch's own products do: on a GPU in full
unless ``torch.backends.cuda.matmul`` allows TF32, whatever the switch for RNNs says. They read batch sizes, so those on
a GPU are waited for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import reference
from .._call import precision
from .calls import Call, MaybeTensors
from .schema import Request


def forward(call: Call, *primals: Tensor) -> tuple[Tensor, ...]:
    """The layers themselves, from primals to outputs."""
    dtype = primals[0].dtype
    if dtype in precision.HALF_DTYPES:
        wide = precision.cast(primals, torch.float32)
        return tuple(precision.cast(forward(call, *wide), dtype))
    input, states, resets, weights = call.split(primals)
    return reference.layers(
        call.cell, input, states, weights, call.bidirectional, call.batch_sizes, call.extras, resets
    )


def requested(call: Call, request: Request, grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Of the gradients of all primals those that `request` names: the states' always, input's and weights' perhaps."""
    return (
        *(grads[:1] if request.input else ()),
        *grads[1 : call.data],
        *(grads[call.data :] if request.weights else ()),
    )


def of_all_primals(call: Call, request: Request, grads: Sequence[Tensor], primals: int) -> tuple[Tensor | None, ...]:
    """The other way: requested gradients in the places of their primals, None in the others'."""
    return (
        *(() if request.input else (None,)),
        *grads,
        *(() if request.weights else (None,) * (primals - call.data)),
    )


def backward(call: Call, request: Request, grads: MaybeTensors, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The requested gradients of the primals, given those of the outputs (None for zeros)."""
    if request.groups:
        return _backward_by_group(call, request, grads, primals)
    with precision.without_autocast(primals[0].device):
        outputs, vjp = torch.func.vjp(  # type: ignore[misc]
            lambda *inputs: forward(call, *inputs), *primals
        )
        full = tuple(torch.zeros_like(out) if grad is None else grad for grad, out in zip(grads, outputs, strict=True))
        return requested(call, request, vjp(full))


def _backward_by_group(
    call: Call, request: Request, grads: MaybeTensors, primals: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    groups, data = request.groups, call.data
    one = call.ungrouped(groups)
    plain = request._replace(groups=0)

    def split(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-2, (tensor.shape[-2] // groups, groups)).movedim(-2, 0)

    given = [grad is not None for grad in grads]
    batched = [*(split(grad) for grad in grads if grad is not None), *map(split, primals[:data])]

    def one_group(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        group_grads = [next(rest) if is_given else None for is_given in given]
        return backward(one, plain, group_grads, [*rest, *primals[data:]])

    results = torch.func.vmap(one_group)(*batched)
    joined = data if request.input else data - 1
    return (*(r.movedim(0, -2).flatten(-3, -2) for r in results[:joined]), *results[joined:])


def double_backward(
    call: Call, request: Request, grads: MaybeTensors, primals: Sequence[Tensor], grad_grads: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradients of `grads` (None where None came) and of `primals`, given those of what :func:`backward` returns."""
    given = [grad is not None for grad in grads]
    count = sum(given)

    def first(*tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        return backward(call, request, [next(rest) if is_given else None for is_given in given], list(rest))

    with precision.without_autocast(primals[0].device):
        _, vjp = torch.func.vjp(first, *(g for g in grads if g is not None), *primals)  # type: ignore[misc]
        results = vjp(tuple(grad_grads))
    of_grads = iter(results[:count])
    return (*(next(of_grads) if is_given else None for is_given in given), *results[count:])
