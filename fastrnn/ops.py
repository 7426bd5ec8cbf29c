"""The operators `torch.ops.fastrnn.*`: one `Cell` for each recurrence, with fake kernels for tracing.

For every cell there are a public pair `<cell>_forward`, `<cell>_backward`, which torch.compile and torch.export see,
and a raw pair `_<cell>_forward`, `_<cell>_backward` on the same kernels, which `fastrnn.autograd` calls in eager mode.
`_<cell>_infer` is forward that keeps nothing for backward; `_<cell>_freeze` packs weights for it, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _native
from .reference import GATES, STATES


@dataclass(frozen=True, eq=False)
class Cell:
    """One recurrence and its operators."""

    name: str
    forward: Any = field(init=False, repr=False)
    backward: Any = field(init=False, repr=False)
    raw_forward: Any = field(init=False, repr=False)
    raw_backward: Any = field(init=False, repr=False)
    infer: Any = field(init=False, repr=False)
    freeze: Any = field(init=False, repr=False)
    gates: int = field(init=False)
    states: int = field(init=False)  # 2 where there is a c beside h

    def __post_init__(self) -> None:
        facts = {
            "forward": getattr(torch.ops.fastrnn, f"{self.name}_forward").default,
            "backward": getattr(torch.ops.fastrnn, f"{self.name}_backward").default,
            "raw_forward": getattr(torch.ops.fastrnn, f"_{self.name}_forward").default,
            "raw_backward": getattr(torch.ops.fastrnn, f"_{self.name}_backward").default,
            "infer": getattr(torch.ops.fastrnn, f"_{self.name}_infer").default,
            "freeze": getattr(torch.ops.fastrnn, f"_{self.name}_freeze").default,
            "gates": GATES[self.name],
            "states": STATES[self.name],
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)


CELLS = {name: Cell(name) for name in GATES}


class Request(NamedTuple):
    """Which gradients a backward op is asked for, beyond those of the states.

    With `groups` > 0 it returns one gradient of the weights for each group, stacked in front; row b of the batch
    belongs to group b % groups.
    """

    input: bool
    weights: bool
    groups: int = 0


def _empty(like: Tensor, *leading: int) -> Tensor:
    return like.new_empty((*leading, *like.shape))


def _fake_infer(input: Tensor, states: Sequence[Tensor], bidirectional: bool) -> tuple[Tensor, ...]:
    features = (2 if bidirectional else 1) * states[0].shape[-1]
    return input.new_empty((*input.shape[:-1], features)), *map(_empty, states)


def _fake_reserve(cell: Cell, input: Tensor, weights: Sequence[Tensor], bidirectional: bool) -> Tensor:
    rows = input.shape[0] * (input.shape[1] if input.dim() == 3 else 1)
    hidden_size = weights[0].shape[0] // cell.gates
    values = _native.reserve_values(cell.name, input.dtype, rows, hidden_size)
    return input.new_empty(((2 if bidirectional else 1) * values,))


def _fake_backward(
    input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], request: Request
) -> tuple[Any, ...]:
    leading = (request.groups,) if request.groups else ()
    return (
        _empty(input) if request.input else input.new_empty((0,)),
        *map(_empty, states),
        [_empty(weight, *leading) for weight in weights] if request.weights else [],
    )


def _register_fakes(cell: Cell) -> None:
    states = cell.states

    def infer(input: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return _fake_infer(input, args[:states], args[states + 2])

    def forward(input: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return *infer(input, *args), _fake_reserve(cell, input, args[states], args[states + 2])

    def backward(*args: Any) -> tuple[Any, ...]:
        input, *rest = args[states + 1 :]
        return _fake_backward(input, rest[:states], rest[states], Request(*rest[-3:]))

    torch.library.register_fake(f"fastrnn::_{cell.name}_infer")(infer)
    for name in (cell.name, f"_{cell.name}"):
        torch.library.register_fake(f"fastrnn::{name}_forward")(forward)
        torch.library.register_fake(f"fastrnn::{name}_backward")(backward)


for _cell in CELLS.values():
    _register_fakes(_cell)
