"""The operators `torch.ops.fastrnn.*`: one `Cell` for each recurrence, with fake kernels and autograd.

For every cell there are a public pair `<cell>_forward`, `<cell>_backward`, which torch.compile and torch.export see,
and a bare pair `_<cell>_forward`, `_<cell>_backward` on the same kernels, which `fastrnn.autograd` calls in eager mode.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import _native


@dataclass(frozen=True)
class Cell:
    """One recurrence and its operators."""

    name: str
    gates: int
    states: int  # 2 where there is a c beside h
    reserve_width: int = field(init=False)  # values kept for backward, per row and hidden unit
    forward: Any = field(init=False, repr=False)
    backward: Any = field(init=False, repr=False)
    raw_forward: Any = field(init=False, repr=False)
    raw_backward: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        namespace = torch.ops.fastrnn
        object.__setattr__(self, "reserve_width", _native.reserve_width(self.name))
        object.__setattr__(self, "forward", getattr(namespace, f"{self.name}_forward").default)
        object.__setattr__(self, "backward", getattr(namespace, f"{self.name}_backward").default)
        object.__setattr__(self, "raw_forward", getattr(namespace, f"_{self.name}_forward").default)
        object.__setattr__(self, "raw_backward", getattr(namespace, f"_{self.name}_backward").default)


CELLS = {
    cell.name: cell for cell in (Cell("rnn_tanh", 1, 1), Cell("rnn_relu", 1, 1), Cell("lstm", 4, 2), Cell("gru", 3, 1))
}


def _fake_forward(cell: Cell) -> Any:
    def fake(input: Tensor, *args: Any) -> tuple[Tensor, ...]:
        states, (weights, _batch_sizes, bidirectional), keep = (
            args[: cell.states],
            args[cell.states : cell.states + 3],
            args[cell.states + 3 :],
        )
        directions = 2 if bidirectional else 1
        hidden_size = weights[0].shape[0] // cell.gates
        rows = input.shape[:-1].numel() if all(keep) else 0
        return (
            input.new_empty((*input.shape[:-1], directions * states[0].shape[2])),
            *(torch.empty_like(state, memory_format=torch.contiguous_format) for state in states),
            input.new_empty((directions * rows * hidden_size * cell.reserve_width,)),
        )

    return fake


def _fake_backward(cell: Cell) -> Any:
    def fake(*args: Any) -> tuple[Any, ...]:
        grads = cell.states + 1
        input, *states = args[grads : grads + 1 + cell.states]
        weights, input_grad, weight_grads = args[grads + 1 + cell.states], args[-2], args[-1]
        return (
            torch.empty_like(input, memory_format=torch.contiguous_format) if input_grad else input.new_empty((0,)),
            *(torch.empty_like(state, memory_format=torch.contiguous_format) for state in states),
            [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights] if weight_grads else [],
        )

    return fake


def _register_autograd(cell: Cell) -> None:
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        input, states, (weights, batch_sizes, ctx.bidirectional) = (
            inputs[0],
            inputs[1 : 1 + cell.states],
            inputs[1 + cell.states :],
        )
        ctx.save_for_backward(batch_sizes, input, *states, output[0], output[-1], *weights)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        batch_sizes, input, *rest = ctx.saved_tensors
        states, (output, reserve), weights = rest[: cell.states], rest[cell.states : cell.states + 2], rest[cell.states + 2 :]
        needs = ctx.needs_input_grad
        weight_grads = any(needs[1 + cell.states])
        *grad_inputs, grad_weights = cell.backward(
            *grads[:-1], input, *states, weights, output, reserve, batch_sizes, ctx.bidirectional, needs[0], weight_grads
        )
        return (
            grad_inputs[0] if needs[0] else None,
            *grad_inputs[1:],
            grad_weights if weight_grads else [None] * len(weights),
            None,
            None,
        )

    torch.library.register_autograd(f"fastrnn::{cell.name}_forward", backward, setup_context=setup_context)


for _cell in CELLS.values():
    for _prefix in ("", "_"):
        torch.library.register_fake(f"fastrnn::{_prefix}{_cell.name}_forward")(_fake_forward(_cell))
        torch.library.register_fake(f"fastrnn::{_prefix}{_cell.name}_backward")(_fake_backward(_cell))
    _register_autograd(_cell)
