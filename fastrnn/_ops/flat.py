"""The public ops with a fixed number of tensors as results, for Inductor's C++ wrapper
(``torch._inductor.config.cpp_wrapper``): it calls no op that returns lists.

Final states, and the gradients of states and of weights, are one flat tensor each, which costs a copy; so graphs have
these ops only where the wrapper is asked for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import schema
from .cells import facts_of

_LIBRARY = torch.library.Library("fastrnn_flat", "DEF")


def is_wanted() -> bool:
    """Whether what is compiled now is to be called from C++."""
    config = sys.modules.get("torch._inductor.config")
    return config is not None and config.cpp_wrapper and not torch.compiler.is_exporting()


is_wanted._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _define(like: Any, results: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """An op with the arguments of another one."""
    arguments = str(like._schema).split("(", 1)[1].rsplit(" -> ", 1)[0]
    name = like._opname
    _LIBRARY.define(f"{name}({arguments} -> ({results})")
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastrnn_flat::{name}")(fake)
    return getattr(torch.ops.fastrnn_flat, name).default


def _joined(tensor: Tensor, *others: Sequence[Tensor] | Tensor) -> tuple[Tensor, ...]:
    """Each list as one tensor."""
    return tensor, *[
        other
        if isinstance(other, Tensor)
        else torch.cat([part.flatten() for part in other])
        if other
        else tensor.new_empty(0)
        for other in others
    ]


_forward = _define(
    schema.forward,
    "Tensor output, Tensor finals, Tensor cells, Tensor reserve",
    lambda *arguments: _joined(*schema.raw_forward(*arguments)),
    lambda *arguments: _joined(*schema.FAKES[schema.forward](*arguments)),
)
_backward = _define(
    schema.backward,
    "Tensor grad_input, Tensor grad_states, Tensor grad_weights",
    lambda *arguments: _joined(*schema.raw_backward(*arguments)),
    lambda *arguments: _joined(*schema.FAKES[schema.backward](*arguments)),
)


def split(flat: Tensor, like: Sequence[Tensor], groups: int = 0) -> list[Tensor]:
    """Tensors of the shapes of `like`, or the gradients of those, from the one tensor they were joined to."""
    leading = (groups,) if groups else ()
    parts = flat.split([math.prod(leading) * tensor.numel() for tensor in like])
    return [part.view(*leading, *tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def forward(cell: str, *arguments: Any) -> tuple[Any, ...]:
    """As ``schema.forward``."""
    output, finals, cells, reserve = _forward(cell, *arguments)
    states = arguments[1][: facts_of(cell).states]
    return output, split(finals, states), cells, reserve


def backward(*arguments: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """As ``schema.backward``."""
    of_input, of_states, of_weights = _backward(*arguments)
    given = dict(zip([argument.name for argument in schema.backward._schema.arguments], arguments, strict=True))
    weights = given["weights"] if given["weight_grads"] else []
    return of_input, split(of_states, given["states"]), split(of_weights, weights, given["groups"]) if weights else []
