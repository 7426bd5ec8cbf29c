"""Prints a cell as the C++ header that the kernels are compiled with."""

from __future__ import annotations

from collections.abc import Callable

from .derive import Backward
from .graph import Graph
from .nodes import ZERO, Node, leaf, topological
from .ops import lowered
from .printer import Printer

_NAME_LENGTH = 20  # of a cell's name in the kernels, without "@" and the hash

_TEMPLATE = """\
// Made from the function {name}:
{equations}
#pragma once

#include "cells/cell.h"
#include "cells/functions.h"

namespace fastrnn::own {{

struct {name}Cell : CellDefaults {{
  static constexpr CellName kName{{"{cell}"}};
  static constexpr int kGates = {gates}, kSavedValues = {saved}, kCellStates = {cells}, kPerUnitWeights = {weights};
  static constexpr bool kMultipliesH = {multiplies}, kReadsInput = {input}, kReadsPreviousH = {reads_h};
  static constexpr bool kCarriesH = {carries}, kReadsCells = false;
  static constexpr unsigned kSeparateBiases = {biases};
  static constexpr FASTRNN_INLINE int recurrent_slot(int gate) {{{slot}}}

  template <class V>
  static FASTRNN_INLINE void forward(const V (&{x})[kGates], const V (&{r})[kGates], Step<V, kSavedValues>& step) {{
{forward}
  }}

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>&{step},{grad}& grad) {{
{backward}
  }}
}};

}}  // namespace fastrnn::own
"""

_WEIGHTED_GRAD = "\n" + " " * 38 + "StepGrad<V, kSavedValues, kPerUnitWeights>"


def cell_name(graph: Graph, name: str) -> str:
    """What ops and Python call the cell: the function's name and the hash of what it computes."""
    return f"{name.lower()[:_NAME_LENGTH]}@{graph.hash}"


def header(graph: Graph, backward: Backward, name: str) -> str:
    """A struct ``fastrnn::own::<name>Cell`` that ``csrc/cells/cell.h`` says how to read."""
    forward_roots = lowered((*graph.results, *backward.kept))
    backward_roots = lowered((*backward.slots, *backward.weights, *backward.states))
    backward_text = _indented(_backward_lines(graph, backward, backward_roots))
    used = {node.op for node in topological(forward_roots)}
    return _TEMPLATE.format(
        name=name,
        cell=cell_name(graph, name),
        equations=_equations(graph),
        gates=len(graph.gates) + graph.reads_input,
        saved=backward.saved_values,
        cells=len(graph.results) - 1,
        weights=graph.per_unit_weights,
        multiplies=_bool(graph.recurrent == "dense"),
        input=_bool(graph.reads_input),
        reads_h=_bool(leaf("state", 0) in topological((*forward_roots, *backward_roots))),
        carries=_bool(backward.states[0] is not ZERO),
        biases=backward.separate_biases,
        slot=_slot_code(backward),
        x="x" if used & {"x", "input"} else "",
        r="r" if "r" in used else "",
        step=" step" if "step." in backward_text else "",
        forward=_indented(_forward_lines(graph, backward, forward_roots)),
        backward=backward_text,
        grad=_WEIGHTED_GRAD if graph.per_unit_weights else " StepGrad<V, kSavedValues>",
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _equations(graph: Graph) -> str:
    def name(node: Node) -> str:
        k = int(node.numbers[0]) if node.numbers else 0
        if node.op in ("x", "r"):
            return f"{node.op}[{k}]" if graph.gates[k].isdigit() else f"{node.op}.{graph.gates[k]}"
        if node.op == "weight":
            rows = graph.per_unit_weights - len(graph.weights)
            return f"w_hh[{k}]" if k < rows else graph.weights[k - rows]
        return graph.states[k] if node.op == "state" else "input"

    lines = Printer(name, cpp=False).statements(graph.results, [f"{state}'" for state in graph.result_names])
    return "\n".join(f"//   {line}" for line in lines)


def _forward_lines(graph: Graph, backward: Backward, roots: tuple[Node, ...]) -> list[str]:
    targets = [f"step.{place}" for place in _places(graph)]
    return Printer(_leaf_code(graph), cpp=True).statements(
        roots, [*targets, *(f"step.saved[{k}]" for k in range(len(backward.kept)))]
    )


def _backward_lines(graph: Graph, backward: Backward, roots: tuple[Node, ...]) -> list[str]:
    read = {node.numbers[0] for node in topological(roots) if node.op == "grad"}
    places = _places(graph)
    # By name: the places are written before all of these are read.
    incoming = [
        f"const V {name}_grad = grad.{place};"
        for k, (name, place) in enumerate(zip(graph.result_names, places, strict=True))
        if k in read
    ]
    targets = [f"grad.saved[{k}]" for k in range(backward.saved_values)]
    targets += [f"grad.per_unit_weights[{k}]" for k in range(graph.per_unit_weights)]
    targets += [f"grad.{place}" for place in places[len(places) - len(graph.states) :]]
    wanted = list(zip(roots, targets, strict=True))
    if backward.states[0] is ZERO:
        wanted.remove((ZERO, "grad.h"))
    if graph.output is not None:
        wanted.append((ZERO, f"grad.{places[0]}"))
    statements = Printer(_leaf_code(graph), cpp=True).statements(*zip(*wanted, strict=True))
    return incoming + statements


def _places(graph: Graph) -> list[str]:
    """Where forward leaves each result, and backward finds its gradient: what isn't a state is the last cell state."""
    states = ["h", *(f"cell[{k}]" for k in range(len(graph.states) - 1))]
    return states if graph.output is None else [f"cell[{len(states) - 1}]", *states]


def _slot_code(backward: Backward) -> str:
    others = [(gate, slot) for gate, slot in enumerate(backward.recurrent_slots) if slot != gate]
    if not others:
        return " return gate; "
    lines = [f"if (gate == {gate}) return {slot};" for gate, slot in others]
    return f"\n{_indented([*lines, 'return gate;'])}\n  "


def _leaf_code(graph: Graph) -> Callable[[Node], str]:
    def code(node: Node) -> str:
        k = node.numbers[0] if node.numbers else len(graph.gates)
        if node.op == "state":
            return "step.h_prev" if k == 0 else f"step.cell_prev[{int(k) - 1}]"
        if node.op == "grad":
            return f"{graph.result_names[int(k)]}_grad"
        words = {"weight": "step.per_unit_weights", "kept": "step.saved", "input": "x"}
        return f"{words.get(node.op, node.op)}[{k}]"

    return code
