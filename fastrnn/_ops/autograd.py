"""How layers are differentiated, and which way a call takes.

No single autograd.Function can do everything (Dynamo refuses one with a `jvp`, torch.func needs the new style, which
costs 22 us a call, torch.export leaves a raw op without a gradient), so :func:`run` chooses among four ways, all
on the same kernels but for forward-mode AD.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from .. import _native
from .._call import precision
from ..reference import Extras
from . import derivatives, flat, onnx, schema
from .calls import Call, MaybeTensors
from .cells import CELLS, missing_kernels
from .schema import Request


def run(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    bidirectional: bool,
    batch_sizes: Tensor | None = None,
    packed: Tensor | None = None,
    extras: Extras | None = None,
    reset_states: Sequence[Tensor] = (),
    recompute: bool = False,
) -> Sequence[Tensor]:
    """One layer, or without extras several one on another, in one direction or both: output, final states, perhaps
    every step's c, as :func:`fastrnn.reference.layers` defines them.

    `packed` is what the op `_pack` made of the weights; a call that records gradients or is transformed does without.
    With `recompute` such a call keeps nothing for backward but its arguments, and runs again then.
    """
    allow_tf32 = precision.allows_tf32(input)
    primals = (input, *states, *reset_states, *weights)
    if CELLS[cell].load is not None and missing_kernels(cell, input.device.type, input.dtype):
        call = Call(cell, bidirectional, batch_sizes, allow_tf32, extras, bool(reset_states), recompute)
        return derivatives.forward(call, *primals)
    if extras is None:
        if is_plain_inference(input, states, weights):
            return infer(cell, primals, batch_sizes, bidirectional, allow_tf32, packed)
        if _is_tracing() and weights[0].dtype != input.dtype and not takes_formula():  # see reads_bfloat16
            return infer(cell, primals, batch_sizes, bidirectional, allow_tf32)
        # torch.compile traces what is below a break of the graph, where the module has decided already.
        if packed is not None and packed.dtype != input.dtype and _is_tracing() and _is_plain(input, states, weights):
            return infer(cell, primals, batch_sizes, bidirectional, allow_tf32, packed)
    call = Call(cell, bidirectional, batch_sizes, allow_tf32, extras, bool(reset_states), recompute)
    if extras is not None and is_plain_inference(input, (*states, *reset_states), weights):
        return on_kernels(call.infer, primals)
    if takes_formula():
        return derivatives.forward(call, *primals)
    if _is_tracing():
        if onnx.exports():
            return onnx.layers(call, primals)

        def traced(*primals: Tensor) -> tuple[Tensor, ...]:
            return tuple(call.forward(primals, raw=False)[:-1])

        return checkpoint(traced, *primals, use_reentrant=False) if recompute else traced(*primals)
    if torch._C._are_functorch_transforms_active():
        if _is_functionalized():
            return _functionalized(call, primals)
        return TransformedLayer.apply(call.unwrapped(), *primals)
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, primals)):  # which has outlived its transform
        return LayerFunction.apply(call, *primals)
    return _apply_layer(call, *primals)


def is_plain_inference(input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether a call is neither differentiated nor transformed nor traced."""
    return _is_plain(input, states, weights) and not _is_tracing()


def _is_plain(input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether a call is neither differentiated nor transformed."""
    return (
        not (torch.is_grad_enabled() and _any_requires_grad(input, states, weights))
        and forward_ad._current_level < 0
        and not torch._C._are_functorch_transforms_active()
    )


def takes_formula() -> bool:
    """Whether a call made now runs torch ops step by step in place of the kernels.

    So it is under forward-mode AD, and under torch.func transforms within a graph that is being traced.
    """
    return forward_ad._current_level >= 0 or (_is_tracing() and torch._C._are_functorch_transforms_active())


def reads_bfloat16(cell: str, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether the kernels of the CPU read the weights of this call as they are, in bfloat16.

    That is inference. Gradients, torch.func transforms and exported programs, which may be trained, need copies in
    float32.
    """
    return (
        input.dtype == torch.bfloat16
        and input.is_cpu
        and CELLS[cell].load is None
        and not torch._C._is_any_autocast_enabled()
        and _is_plain(input, states, weights)
        and (torch.compiler.is_compiling() or not torch._C._is_tracing())
        and not torch.compiler.is_exporting()
        and not (torch.compiler.is_compiling() and flat.is_wanted())  # the op returns a list
    )


def _is_tracing() -> bool:
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def is_transformed(*tensors: Tensor) -> bool:
    """Whether a call on these is traced, or under torch.func or forward-mode AD, or has tensors that outlived them."""
    return (
        forward_ad._current_level >= 0
        or torch._C._are_functorch_transforms_active()
        or _is_tracing()
        or any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))
    )


def _any_requires_grad(input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    if input.requires_grad:
        return True
    for tensor in weights:
        if tensor.requires_grad:
            return True
    return any(state.requires_grad for state in states)


def _is_functionalized() -> bool:
    """Whether torch.func.functionalize is among the transforms: it knows no autograd.Function, but ops."""
    return any(i.key() == TransformType.Functionalize for i in torch._C._functorch.get_interpreter_stack() or ())


def _functionalized(call: Call, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if len(torch._C._functorch.get_interpreter_stack() or ()) > 1:  # the other transforms know no op of ours
        return derivatives.forward(call, *primals)
    return tuple(call.forward(primals, raw=False)[:-1])


def infer(
    cell: str,
    primals: Sequence[Tensor],
    batch_sizes: Tensor | None,
    bidirectional: bool,
    allow_tf32: bool,
    packed: Tensor | None = None,
) -> Sequence[Tensor]:
    """Forward on the kernels, with nothing kept for backward. No Call, and no detour: together they take 1 us."""
    try:
        return schema.plain_infer(cell, primals, batch_sizes, bidirectional, allow_tf32, packed)
    except RuntimeError:
        _native.reraise_interruption()
        raise


def on_kernels(run: Callable[..., Any], *arguments: Any) -> Any:
    """The call, during which a signal's handler may raise."""
    try:
        return run(*arguments)
    except RuntimeError:
        _native.reraise_interruption()
        raise


def _backward_on_kernels(
    call: Call,
    request: Request,
    grads: MaybeTensors,
    primals: Sequence[Tensor],
    output: Tensor | None,
    reserve: Tensor | None,
) -> tuple[Tensor, ...]:
    """What :func:`derivatives.backward` computes, on the kernels; output and reserve are computed again if None."""
    if output is None or reserve is None:
        output, *_, reserve = on_kernels(call.forward, primals, True)
    return on_kernels(call.backward, request, grads, primals, output, reserve, True)


_NOTHING = torch.empty(0)


class LayerFunction(torch.autograd.Function):
    """A call's layers in eager mode. Old style, ctx first: a new-style apply spends 22 us inspecting signatures."""

    @staticmethod
    def forward(ctx: Any, call: Call, *primals: Tensor) -> tuple[Tensor, ...]:
        output = reserve = ctx.watched = None
        if call.recompute:
            outputs = on_kernels(call.infer, primals)
        else:
            try:
                *outputs, reserve = call.forward(primals, raw=True)
            except RuntimeError:
                _native.reraise_interruption()
                raise
            output = outputs[0]
            if type(output) is Tensor:
                # Saved apart from its version, which torch would refuse once the output was changed in place. That is
                # watched by a tensor which holds no memory.
                ctx.watched = output.detach()
                ctx.watched.data = _NOTHING if output.is_cpu else output.new_empty(0)
                output = output.data
        # All in save_for_backward: what else sits on ctx outlives backward, and an output there never dies.
        ctx.save_for_backward(*primals, output, reserve, *call.masks())
        ctx.call = call.without_masks()
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        needs, saved = ctx.needs_input_grad[1:], ctx.saved_tensors
        primals, (output, reserve, *masks) = saved[: len(needs)], saved[len(needs) :]
        if ctx.watched is not None and ctx.watched._version > 0:
            warnings.warn(
                "The output of a fastrnn layer was changed in place before backward, which needs it and runs forward "
                "again. Change a copy: nn.ReLU() in place of nn.ReLU(inplace=True)",
                stacklevel=1,
            )
            output = reserve = None
        return None, *pull_back(ctx.call.with_masks(masks), needs, grads, primals, output, reserve)


# Function.apply less what it does for tensors that torch.func has wrapped, which takes 2 us.
_apply_layer = super(torch.autograd.Function, LayerFunction).apply


def pull_back(
    call: Call,
    needs: Sequence[bool],
    grads: MaybeTensors,
    primals: Sequence[Tensor],
    output: Tensor | None,
    reserve: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the primals, None where not needed, by kernels wherever their result will not be transformed."""
    if all(grad is None for grad in grads):
        return (None,) * len(primals)
    data = call.data
    request = Request(input=needs[0], weights=any(needs[data:]))
    if forward_ad._current_level >= 0 or any(map(is_legacy_batched, grads)):
        results = derivatives.backward(call, request, grads, primals)
    elif torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        results = LayerGradFunction.apply(call, request, *grads, *primals, output, reserve)
    else:
        results = _backward_on_kernels(call, request, grads, primals, output, reserve)
    return derivatives.of_all_primals(call, request, results, len(primals))


class LayerGradFunction(torch.autograd.Function):
    """The backward of a call as a function that can be differentiated and vmapped: kernels forward, formula backward.

    Its tensors are the gradients of the outputs (or None), the primals, and output and reserve (or None, to compute
    them again).
    """

    @staticmethod
    def forward(call: Call, request: Request, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(_backward_on_kernels(call, request, *_split_grad_arguments(call, tensors)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.request, *tensors = inputs
        ctx.save_for_backward(*tensors[:-2])

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor) -> tuple[Tensor | None, ...]:
        grads, primals, _, _ = _split_grad_arguments(ctx.call, (*ctx.saved_tensors, None, None))
        results = derivatives.double_backward(ctx.call, ctx.request, grads, primals, grad_grads)
        return None, None, *results, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, request: Request, *tensors: Tensor | None) -> Any:
        size, dims = info.batch_size, in_dims[2:]
        grads, primals, _, _ = _split_grad_arguments(call, tensors)
        count, data = len(grads), call.data
        tensors, dims = (*grads, *primals), dims[:-2]
        if any(dim is not None for dim in dims[count + data :]):
            return _loop(lambda *one: LayerGradFunction.apply(call, request, *one, None, None), size, tensors, dims)
        folded = _fold(size, tensors[: count + data], dims[: count + data])
        groups = max(request.groups, 1) * size
        results = LayerGradFunction.apply(
            call.grouped(size), request._replace(groups=groups), *folded, *primals[data:], None, None
        )
        joined = data if request.input else data - 1
        # The folded batch ends in this vmap's samples, and so do the groups of weight gradients.
        outs = [_unfold(size, result, -2) for result in results[:joined]]
        if request.groups:
            outs += [_unfold(size, result, 0) for result in results[joined:]]
        else:
            outs += results[joined:]
        return tuple(outs), (0,) * len(outs)


def is_legacy_batched(tensor: Tensor | None) -> bool:
    """Whether torch.autograd's own vmap (`is_grads_batched=True`) made the tensor; torch.func does not know it."""
    return tensor is not None and torch._C._functorch.is_legacy_batchedtensor(tensor)


def _split_grad_arguments(
    call: Call, tensors: Sequence[Tensor | None]
) -> tuple[MaybeTensors, Sequence[Tensor], Tensor | None, Tensor | None]:
    count = call.outputs
    return tensors[:count], tensors[count:-2], tensors[-2], tensors[-1]  # type: ignore[return-value]


class TransformedLayer(torch.autograd.Function):
    """A call's layers under torch.func transforms: they need the new style, and a vmap of its own."""

    @staticmethod
    def forward(call: Call, *primals: Tensor) -> tuple[Tensor, ...]:
        return tuple(on_kernels(call.infer, primals))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, *primals = inputs
        ctx.save_for_backward(*primals)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *pull_back(ctx.call, ctx.needs_input_grad[1:], grads, ctx.saved_tensors, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, call: Call, *primals: Tensor) -> Any:
        size, dims, data = info.batch_size, in_dims[1:], call.data
        if any(dim is not None for dim in dims[data:]):
            return _loop(lambda *one: TransformedLayer.apply(call, *one), size, primals, dims)
        folded = _fold(size, primals[:data], dims[:data])
        outs = [_unfold(size, r, -2) for r in TransformedLayer.apply(call.grouped(size), *folded, *primals[data:])]
        return tuple(outs), (0,) * len(outs)


def _fold(size: int, tensors: MaybeTensors, dims: Sequence[int | None]) -> list[Tensor | None]:
    """The vmapped dimension becomes part of the batch: sample v of row b is row b * size + v.

    The batch (of packed data: the rows) is the last dimension but one of whatever layers take or return.
    """
    folded = []
    for tensor, dim in zip(tensors, dims, strict=True):
        if tensor is not None:
            if dim is None:
                tensor = tensor.unsqueeze(-2).expand(*tensor.shape[:-1], size, tensor.shape[-1])
            else:
                tensor = tensor.movedim(dim, -2)
            tensor = tensor.flatten(-3, -2)
        folded.append(tensor)
    return folded


def _unfold(size: int, tensor: Tensor, dim: int) -> Tensor:
    """The samples of a folded dimension, in front."""
    return tensor.unflatten(dim, (tensor.shape[dim] // size, size)).movedim(dim if dim < 0 else dim + 1, 0)


def _loop(function: Any, size: int, tensors: MaybeTensors, dims: Sequence[int | None]) -> Any:
    """Each sample by itself: with weights of its own it shares no product with the others."""
    results = []
    for sample in range(size):
        one = [t if t is None or dim is None else t.select(dim, sample) for t, dim in zip(tensors, dims, strict=True)]
        results.append(function(*one))
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)
