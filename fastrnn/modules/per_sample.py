"""Each sample's gradients of the weights, for those who collect them while backward runs: torch's ExpandedWeights
(``torch.nn.utils._per_sample_grad``), and opacus.

Under ``torch.func.vmap`` a layer needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._call.run import run_cell, run_stack
from .._ops.cells import CELLS
from .._options import random_options

if TYPE_CHECKING:
    from .base import Cell, Layer

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class SampledCall:
    """A module's call as a function of its tensors, and which of their dimensions is the batch's."""

    run: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensors]  # of data and weights; of one sample without a batch
    data_dims: tuple[int, ...]
    output_dims: tuple[int, ...]


class SampledFunction(torch.autograd.Function):
    """A call whose backward hands `receive` each sample's gradients of the weights, (B, ...) each, and returns None for
    these; data get their gradients as ever."""

    @staticmethod
    def forward(ctx: Any, call: SampledCall, receive: Callable[[Tensors], None], *tensors: Tensor) -> Tensors:
        ctx.call, ctx.receive = call, receive
        ctx.save_for_backward(*tensors)
        device = tensors[0].device.type
        dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        ctx.autocast = torch.autocast(device, dtype, enabled)
        count = len(call.data_dims)
        ctx.set_materialize_grads(False)
        return call.run(tensors[:count], tensors[count:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        call, count = ctx.call, len(ctx.call.data_dims)
        data, weights = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        batch = data[0].shape[call.data_dims[0]]
        if not batch or all(grad is None for grad in grads):  # vmap knows no empty batch, which opacus draws at times
            ctx.receive(tuple([weight.new_zeros(batch, *weight.shape) for weight in weights]))
            return None, None, *map(torch.zeros_like, data), *(None,) * len(weights)
        given, grads_given = zip(*[(i, grad) for i, grad in enumerate(grads) if grad is not None], strict=True)

        def of_one_sample(grads: Tensors, data: Tensors) -> tuple[Tensors, Tensors]:
            def outputs(*tensors: Tensor) -> Tensors:
                results = call.run(tensors[:count], tensors[count:])
                return tuple([results[index] for index in given])

            _, vjp = torch.func.vjp(outputs, *data, *weights)  # type: ignore[misc]
            results = vjp(grads)
            return results[:count], results[count:]

        dims_given = tuple([call.output_dims[index] for index in given])
        with ctx.autocast:
            of_data, of_weights = torch.func.vmap(
                of_one_sample, in_dims=(dims_given, call.data_dims), out_dims=(call.data_dims, 0)
            )(grads_given, data)
        ctx.receive(of_weights)
        return None, None, *of_data, *(None,) * len(weights)


def of_layer(
    layer: Layer, input: Any, hx: Any, others: Sequence[Any], return_states: bool
) -> tuple[SampledCall, list[Tensor]]:
    """A layer's call, and its data: input and states. `others` are what vmap cannot take apart."""
    name = type(layer).__name__
    if not isinstance(input, Tensor) or input.is_nested or any(other is not None for other in others):
        raise NotImplementedError(
            f"{name}: gradients of each sample of a PackedSequence or nested tensor, or with lengths or resets. Give "
            "each sequence by itself, or padded batches without lengths"
        )
    if input.dim() != 3:
        raise ValueError(f"{name}: gradients of each sample need a batch, a 3D input, got {input.dim()}D")
    obstacle = why_not_sampled(layer)
    if obstacle:
        raise NotImplementedError(f"{name}: {obstacle}")
    modifiers = layer._modifiers(None, None, return_states)

    def run(data: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensors:
        taken = layer._joined(weights) if layer._joins else weights
        output, finals = run_stack(layer, data[0], _hx(data), taken, modifiers=modifiers)
        return (output, *finals)

    data = [input, *_states(hx)]
    dim, states = 0 if layer.batch_first else 1, CELLS[layer.mode.lower()].given_states
    return SampledCall(run, (dim, *(1,) * (len(data) - 1)), (dim, *(1,) * states, dim)), data


def of_cell(cell: Cell, input: Any, hx: Any) -> tuple[SampledCall, list[Tensor]]:
    """A cell's call, and its data: input and states."""
    if input.dim() != 2:
        name = type(cell).__name__
        raise ValueError(f"{name}: gradients of each sample need a batch, a 2D input, got {input.dim()}D")

    def run(data: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensors:
        return run_cell(cell._cell, data[0], _hx(data), cell._joined(weights) if cell._joins else weights)

    data = [input, *_states(hx)]
    return SampledCall(run, (0,) * len(data), (0,) * CELLS[cell._cell].states), data


def _states(hx: Any) -> Sequence[Tensor]:
    return () if hx is None else tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)


def _hx(data: Sequence[Tensor]) -> Any:
    """The other way."""
    states = tuple(data[1:])
    return states if len(states) > 1 else states[0] if states else None


def why_not_sampled(layer: Layer) -> str:
    """What keeps a layer in training mode from telling samples apart, "" if nothing does: backward runs forward again,
    sample by sample, and would draw other masks."""
    names = random_options(layer)
    if not (layer.training and names):
        return ""
    return f"no gradients of each sample with {', '.join(names)} in training mode: make the layer without"


def are_expanded(weights: Sequence[Any]) -> bool:
    """Whether some of them are torch's ExpandedWeight, which no op takes that torch does not know."""
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight

    return any(isinstance(weight, ExpandedWeight) for weight in weights)


def run_expanded(name: str, call: SampledCall, data: list[Tensor], weights: Sequence[Any]) -> Tensors:
    """The call with ExpandedWeights: backward writes to ``weight.grad_sample`` of the parameters behind them."""
    from torch.nn.utils._expanded_weights.expanded_weights_impl import ExpandedWeight
    from torch.nn.utils._expanded_weights.expanded_weights_utils import set_grad_sample_if_exists

    expanded = [(index, weight) for index, weight in enumerate(weights) if isinstance(weight, ExpandedWeight)]
    batch = data[0].shape[call.data_dims[0]]
    sizes = {weight.batch_size for _, weight in expanded}
    if sizes != {batch}:
        raise RuntimeError(
            f"{name}: the input has a batch of {batch}, but call_for_per_sample_grads took {sizes.pop()} for it. Tell "
            "it: batch_first=False, or batch_size"
        )

    def receive(grads: Tensors) -> None:
        for index, weight in expanded:
            set_grad_sample_if_exists(weight, lambda _, grad=grads[index]: grad)

    plain = [weight.orig_weight if isinstance(weight, ExpandedWeight) else weight for weight in weights]
    return SampledFunction.apply(call, receive, *data, *plain)
