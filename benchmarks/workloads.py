"""What is timed: the grid of shapes, and one layer's weights, input and gradient for a shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CELLS = ("RNN", "GRU", "LSTM")
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
MODES = ("inference", "training")


@dataclass(frozen=True, order=True)
class Case:
    """A layer's shape: T, B, I, H."""

    steps: int
    batch: int
    input_size: int
    hidden_size: int

    def __str__(self) -> str:
        return f"{self.steps},{self.batch},{self.input_size},{self.hidden_size}"

    @staticmethod
    def parse(text: str) -> Case:
        """The case written T,B,I,H."""
        steps, batch, input_size, hidden_size = map(int, text.split(","))
        return Case(steps, batch, input_size, hidden_size)

    def input_macs(self, cell: str) -> int:
        """Multiply-adds of the input's product, for all steps."""
        return self.steps * self.batch * GATES[cell] * self.hidden_size * self.input_size

    def step_macs(self, cell: str) -> int:
        """Multiply-adds of one step's recurrent product."""
        return self.batch * GATES[cell] * self.hidden_size**2

    def work(self, cell: str, mode: str) -> int:
        """Multiply-adds of a call. Backward has two products of each size: for the inputs and for the weights."""
        return (self.input_macs(cell) + self.steps * self.step_macs(cell)) * (3 if mode == "training" else 1)


GRID = (
    Case(32, 1, 64, 64),
    Case(100, 1, 128, 128),
    Case(100, 1, 512, 512),
    Case(100, 1, 1024, 1024),
    Case(100, 16, 128, 128),
    Case(100, 32, 256, 256),
    Case(100, 64, 512, 512),
    Case(50, 128, 1024, 1024),
    Case(512, 8, 64, 64),
    Case(28, 128, 28, 128),
    Case(1000, 4, 32, 32),
)


@dataclass(frozen=True)
class Problem:
    """One layer's tensors, for every implementation the same.

    Inference starts from zeros and gives output and final states. Training starts from ``states`` and gives the
    gradient of each of ``leaves``, in their order.
    """

    case: Case
    cell: str
    mode: str
    input: Tensor  # (T, B, I)
    states: tuple[Tensor, ...]  # h, or h and c, each (1, B, H)
    weights: tuple[Tensor, ...]  # w_ih (G*H, I), w_hh (G*H, H), b_ih (G*H,), b_hh (G*H,)
    grad: Tensor  # of output, (T, B, H)

    @property
    def training(self) -> bool:
        return self.mode == "training"

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return (self.input, *self.states, *self.weights)


def build(cell: str, case: Case, mode: str) -> Problem:
    """Weights as torch.nn draws them; input, states and gradient normal. The same on every call."""
    torch.manual_seed(0)
    weights = tuple(weight.detach() for weight in getattr(nn, cell)(case.input_size, case.hidden_size).parameters())
    input = torch.randn(case.steps, case.batch, case.input_size)
    states = tuple(torch.randn(1, case.batch, case.hidden_size) for _ in range(2 if cell == "LSTM" else 1))
    problem = Problem(case, cell, mode, input, states, weights, torch.randn(case.steps, case.batch, case.hidden_size))
    for leaf in problem.leaves:
        leaf.requires_grad_(problem.training)
    return problem


def load(module: nn.Module, weights: Sequence[Tensor]) -> nn.Module:
    """`module`, with those weights in place of its own."""
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)
    return module
