"""The operators `torch.ops.fastrnn.*`: one `Cell` for each recurrence, with fake kernels for tracing.

For every cell there are a public pair `<cell>_forward`, `<cell>_backward`, which torch.compile and torch.export see,
and a raw pair `_<cell>_forward`, `_<cell>_backward` on the same kernels, which `fastrnn.autograd` calls in eager mode.
`_<cell>_infer` is forward that keeps nothing for backward; `_<cell>_freeze` packs weights for it, on the CPU.
`<cell>_extended_forward` and so on do the same with extras (:class:`fastrnn.reference.Extras`); cells that torch.nn
does not have come with these alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _native
from .reference import GATES, PLAIN_CELLS, STATES


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
    extended_forward: Any = field(init=False, repr=False)
    extended_backward: Any = field(init=False, repr=False)
    raw_extended_forward: Any = field(init=False, repr=False)
    raw_extended_backward: Any = field(init=False, repr=False)
    extended_infer: Any = field(init=False, repr=False)
    gates: int = field(init=False)
    states: int = field(init=False)  # 2 where there is a c beside h

    def __post_init__(self) -> None:
        def op(name: str) -> Any:
            return getattr(torch.ops.fastrnn, name).default

        facts = {"gates": GATES[self.name], "states": STATES[self.name]}
        plain = self.name in PLAIN_CELLS
        if plain:
            facts["freeze"] = op(f"_{self.name}_freeze")
        for kind in ("", "extended_") if plain else ("extended_",):
            facts[f"{kind}infer"] = op(f"_{self.name}_{kind}infer")
            for way in ("forward", "backward"):
                facts[f"{kind}{way}"] = op(f"{self.name}_{kind}{way}")
                facts[f"raw_{kind}{way}"] = op(f"_{self.name}_{kind}{way}")
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


def _fake_reserve(cell: Cell, input: Tensor, hx: Tensor, weights: Sequence[Tensor], bidirectional: bool) -> Tensor:
    rows = input.shape[0] * (input.shape[1] if input.dim() == 3 else 1)
    hidden_size, last = weights[0].shape[0] // cell.gates, 2 if bidirectional else 1
    lower = (hx.shape[0] if hx.dim() == 3 else 1) - last  # directions of layers below the last

    def values(handed_on: int) -> int:
        return _native.reserve_values(cell.name, input.dtype, rows, hidden_size, handed_on)

    return input.new_empty((lower * values(hx.shape[-1]) + last * values(0),))


def _fake_backward(
    input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], request: Request
) -> tuple[Any, ...]:
    leading = (request.groups,) if request.groups else ()
    return (
        _empty(input) if request.input else input.new_empty((0,)),
        *map(_empty, states),
        [_empty(weight, *leading) for weight in weights] if request.weights else [],
    )


# Where these stand among an extended op's settings, from batch_sizes on (see _calls.Call.settings).
_BIDIRECTIONAL, _RETURN_CELLS = 7, 10


def _fake_extended_infer(
    cell: Cell, input: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], settings: Sequence[Any]
) -> tuple[Any, ...]:
    bidirectional, return_cells = settings[_BIDIRECTIONAL], settings[_RETURN_CELLS]
    output, *finals = _fake_infer(input, states, bidirectional)
    features = (2 if bidirectional else 1) * (weights[0].shape[0] // cell.gates)
    cells = input.new_empty((*input.shape[:-1], features) if return_cells else (0,))
    return output, finals, cells


def _register_extended_fakes(cell: Cell) -> None:
    def infer(
        input: Tensor, states: Sequence[Tensor], _resets: Sequence[Tensor], weights: Sequence[Tensor], *settings: Any
    ) -> tuple[Any, ...]:
        return _fake_extended_infer(cell, input, states, weights, settings)

    def forward(
        input: Tensor, states: Sequence[Tensor], _resets: Sequence[Tensor], weights: Sequence[Tensor], *settings: Any
    ) -> tuple[Any, ...]:
        outputs = _fake_extended_infer(cell, input, states, weights, settings)
        return *outputs, _fake_reserve(cell, input, states[0], weights, settings[_BIDIRECTIONAL])

    def backward(*args: Any) -> tuple[Any, ...]:
        input, states, resets, weights, *rest = args[4:]
        grad_input, *grad_states, grad_weights = _fake_backward(input, states, weights, Request(*rest[-3:]))
        return grad_input, grad_states, [_empty(reset) for reset in resets], grad_weights

    torch.library.register_fake(f"fastrnn::_{cell.name}_extended_infer")(infer)
    for name in (cell.name, f"_{cell.name}"):
        torch.library.register_fake(f"fastrnn::{name}_extended_forward")(forward)
        torch.library.register_fake(f"fastrnn::{name}_extended_backward")(backward)


def _register_fakes(cell: Cell) -> None:
    states = cell.states

    def infer(input: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return _fake_infer(input, args[:states], args[states + 2])

    def forward(input: Tensor, *args: Any) -> tuple[Tensor, ...]:
        return *infer(input, *args), _fake_reserve(cell, input, args[0], args[states], args[states + 2])

    def backward(*args: Any) -> tuple[Any, ...]:
        input, *rest = args[states + 1 :]
        return _fake_backward(input, rest[:states], rest[states], Request(*rest[-3:]))

    torch.library.register_fake(f"fastrnn::_{cell.name}_infer")(infer)
    for name in (cell.name, f"_{cell.name}"):
        torch.library.register_fake(f"fastrnn::{name}_forward")(forward)
        torch.library.register_fake(f"fastrnn::{name}_backward")(backward)


for _cell in CELLS.values():
    if _cell.name in PLAIN_CELLS:
        _register_fakes(_cell)
    _register_extended_fakes(_cell)
