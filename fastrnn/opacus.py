"""Training with differential privacy by `opacus <https://opacus.ai>`_: what fastrnn's layers and cells tell it.

``opacus.PrivacyEngine`` and ``GradSampleModule`` find all this by themselves when they meet a fastrnn module;
``import fastrnn.opacus`` has ``opacus.validators.ModuleValidator`` know as well, which names what cannot be done.

opacus' own way is to hand a layer's input and its output's gradient to a function that computes the gradients of each
sample from these two. Of a recurrent layer it would miss hx, and the gradients of hy and cy. So a fastrnn module
computes them in its own backward, and what is registered with opacus only passes them on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks, GradSampleHooksFastGradientClipping, register_grad_sampler
from opacus.validators import register_module_validator
from opacus.validators.errors import UnsupportedModuleError
from torch import Tensor, nn

from . import adopted, modules
from .modules import per_sample
from .modules.base import Cell, Layer

__all__: list[str] = []

_CLASSES = [getattr(home, name) for home in (modules, adopted) for name in modules.__all__ if hasattr(home, name)]


@register_grad_sampler(_CLASSES)
def _pass_on(module: nn.Module, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """The gradients that :func:`run` left in the place of activations, times what opacus makes of gradients of 1."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return {
        parameter: grad * backprops.view(-1, *(1,) * (grad.dim() - 1))
        for parameter, grad in zip(trained, activations, strict=True)
    }


@register_module_validator(_CLASSES)
def _validate(module: nn.Module) -> list[UnsupportedModuleError]:
    obstacle = _obstacle(module)
    return [UnsupportedModuleError(f"{type(module).__name__}, a fastrnn module: {obstacle}")] if obstacle else []


def _obstacle(module: nn.Module) -> str:
    """What keeps a module from being trained with opacus, "" if nothing does."""
    if not isinstance(module, (Layer, Cell)):
        return "no gradients of each sample. Use RNN, LSTM or GRU"
    computed = [name for name in module._stacked()[1] if name not in module._parameters]
    if computed:
        return f"{computed[0]} is no parameter but computed. Remove what computes it"
    return per_sample.why_not_sampled(module) if isinstance(module, Layer) else ""


def check(module: nn.Module, owner: Any) -> None:
    """Raise NotImplementedError unless `owner`, of opacus, gets right gradients of the module."""
    obstacle = _obstacle(module)
    if not isinstance(owner, GradSampleHooks) or isinstance(owner, GradSampleHooksFastGradientClipping):
        obstacle = f"no gradients for {type(owner).__name__}. Use grad_sample_mode='hooks' or 'ew'"
    elif owner.force_functorch:
        obstacle = "functorch would leave out hx, and the gradients of hy. Use grad_sample_mode='hooks'"
    if obstacle:
        raise NotImplementedError(f"{type(module).__name__}, a fastrnn module, with opacus: {obstacle}")


def run(module: Any, owner: Any, input: Any, hx: Any, *others: Any) -> Any:
    """A module's ``_run`` while `owner` collects gradients of each sample."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if not (module.training and owner.hooks_enabled and torch.is_grad_enabled() and any(trained)):
        return type(module)._run(module, input, hx, *others)
    is_cell = isinstance(module, Cell)
    call, data = (
        per_sample.of_cell(module, input, hx)
        if is_cell
        else per_sample.of_layer(module, input, hx, others[:3], others[3])
    )
    of_samples = input.new_ones(input.shape[call.data_dims[0]])
    owner.capture_activations_hook(module, [of_samples], None)
    receive = _receiver(module, owner, of_samples)
    names = module._stacked()[1]
    output, *states = per_sample.SampledFunction.apply(call, receive, *data, *[getattr(module, name) for name in names])
    return (output, *states) if is_cell else (output, tuple(states))


def _receiver(module: Any, owner: Any, of_samples: Tensor) -> Callable[[tuple[Tensor, ...]], None]:
    names = module._stacked()[1]

    def receive(grads: tuple[Tensor, ...]) -> None:
        by_name = dict(zip(names, grads, strict=True))
        module.activations[-1] = [by_name[name] for name, weight in module._parameters.items() if weight.requires_grad]
        owner.capture_backprops_hook(module, None, (of_samples,), owner.loss_reduction, True)

    return receive
