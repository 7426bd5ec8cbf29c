"""What a cell computes at one time step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .nodes import Node, leaf, topological
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
    leaves = {
        leaf(kind, k): tensor
        for kind, values in (("x", x), ("r", r), ("state", states), ("weight", weights))
        for k, tensor in enumerate(values)
    }
    if input is not None:
        leaves[leaf("input")] = input
    return evaluate_nodes(graph.results, leaves, states[0])


def evaluate_nodes(roots: Sequence[Node], leaves: Mapping[Node, Tensor], like: Tensor) -> tuple[Tensor, ...]:
    """The values of nodes, of the shape, dtype and device of ``like``."""
    values: dict[Node, Tensor | float] = dict(leaves)
    for node in topological(roots):
        if node.value is not None:
            values[node] = node.value
        elif node not in values:
            arguments = [values[arg] for arg in node.args]
            if node.op == "where" and all(isinstance(argument, float) for argument in arguments[1:]):
                # Of two numbers torch.where makes a tensor of the default dtype.
                arguments[1] = like.new_tensor(arguments[1])
            values[node] = OPS[node.op].evaluate(*arguments, *node.numbers)
    return tuple(_as_tensor(values[root], like) for root in roots)


def _as_tensor(value: Tensor | float, like: Tensor) -> Tensor:
    if isinstance(value, float):
        return torch.full_like(like, value)
    return value if value.shape == like.shape else value.expand_as(like)
