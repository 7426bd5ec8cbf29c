"""What a cell computes at one time step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .nodes import Node, Number, leaf, topological
from .ops import OPS


@dataclass(frozen=True)
class Graph:
    """A cell's function as expressions.

    Its leaves are ``("x", gate)``, ``("r", gate)``, ``("state", k)``, ``("weight", k)`` and ``("input",)``. Per-unit
    weights are counted as the kernels do: with ``recurrent="diagonal"`` first the rows of weight_hh, a gate each.
    """

    gates: tuple[str, ...]
    states: tuple[str, ...]
    recurrent: str  # "dense", "diagonal" or "none"
    weights: tuple[str, ...]  # the user's
    reads_input: bool
    output: str | None  # the name of a first result that the layer outputs and that is none of the states
    results: tuple[Node, ...]

    @property
    def result_names(self) -> tuple[str, ...]:
        return self.states if self.output is None else (self.output, *self.states)

    @property
    def per_unit_weights(self) -> int:
        return (len(self.gates) if self.recurrent == "diagonal" else 0) + len(self.weights)

    def text(self) -> str:
        """The same for all functions that compute the same by the same operations, whatever their names are."""
        order = topological(self.results)
        numbering = {node: f"%{i}" for i, node in enumerate(order)}
        facts = (len(self.gates), len(self.states), self.recurrent, len(self.weights), self.reads_input)
        lines = [" ".join(map(str, ("cell", *facts, self.output is not None)))]
        for node in order:
            arguments = [numbering[arg] for arg in node.args] + [repr(number) for number in node.numbers]
            lines.append(f"{numbering[node]} = {node.op} {' '.join(arguments)}".rstrip())
        lines.append(" ".join(("results", *(numbering[node] for node in self.results))))
        return "\n".join(lines) + "\n"

    @cached_property
    def program(self) -> Program:
        """Computes the results of all leaves: x, r of "dense" alone, states, weights, x_t if the graph reads it."""
        counts = {
            "x": len(self.gates),
            "r": len(self.gates) if self.recurrent == "dense" else 0,
            "state": len(self.states),
            "weight": self.per_unit_weights,
        }
        leaves = [leaf(kind, k) for kind, count in counts.items() for k in range(count)]
        return Program(self.results, (*leaves, *([leaf("input")] if self.reads_input else [])))

    @cached_property
    def hash(self) -> str:
        """Of the text."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:10]


def evaluate(
    graph: Graph,
    x: Sequence[Tensor],
    r: Sequence[Tensor],
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    input: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """One time step by torch's ops, which autograd differentiates.

    Args:
        x: of each gate (B, H), its part of ``W_ih x_t + b_ih``.
        r: of each gate (B, H), its part of ``W_hh h_{t-1} + b_hh``; empty unless ``graph.recurrent`` is "dense".
        states: (B, H) each, before the step.
        weights: ``graph.per_unit_weights`` of them, (H,) each.
        input: (B, H), x_t itself where the graph reads it.
    Returns:
        ``graph.results``, (B, H) each.
    """
    of_h = r if graph.recurrent == "dense" else ()
    return graph.program.run([*x, *of_h, *states, *weights, *([] if input is None else [input])], states[0])


def evaluate_nodes(roots: Sequence[Node], leaves: Mapping[Node, Tensor], like: Tensor) -> tuple[Tensor, ...]:
    """The values of nodes, of the shape, dtype and device of ``like``."""
    return Program(roots, tuple(leaves)).run(list(leaves.values()), like)


class Program:
    """What computes nodes by torch's ops, laid out ahead: a run is calls of torch alone, which Dynamo can trace."""

    def __init__(self, roots: Sequence[Node], leaves: Sequence[Node]) -> None:
        order = [node for node in topological(roots) if node not in leaves]
        constants = [node for node in order if node.value is not None]
        computed = [node for node in order if node.value is None]
        self._constants = tuple([node.value for node in constants])
        like = len(leaves)
        place = {node: k for k, node in enumerate(leaves)}
        place |= {node: like + 1 + k for k, node in enumerate((*constants, *computed))}
        # Of each computed value the function, the places of its arguments, the numbers behind them.
        steps: list[tuple[Callable[..., Tensor], tuple[int, ...], tuple[Number, ...]]] = []
        for node in computed:
            function, places = OPS[node.op].evaluate, tuple([place[arg] for arg in node.args])
            if node.op == "where" and all(arg.value is not None for arg in node.args[1:]):
                function, places = _where_of_numbers, (*places, like)
            steps.append((function, places, node.numbers))
        self._steps = tuple(steps)
        self._results = tuple([place[root] for root in roots])

    def run(self, leaves: Sequence[Tensor], like: Tensor) -> tuple[Tensor, ...]:
        """The roots' values, of the shape, dtype and device of ``like``."""
        values: list[Any] = [*leaves, like, *self._constants]
        for function, places, numbers in self._steps:
            values.append(function(*[values[place] for place in places], *numbers))
        return tuple([_as_tensor(values[place], like) for place in self._results])


def _where_of_numbers(condition: Tensor, a: float, b: float, like: Tensor) -> Tensor:
    """Torch.where makes a tensor of the default dtype of them."""
    return torch.where(condition, torch.full_like(like, a), b)


def _as_tensor(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, float):
        return torch.full_like(like, value)
    return value if value.shape == like.shape else value.expand_as(like)
