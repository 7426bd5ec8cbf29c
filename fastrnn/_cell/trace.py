"""Runs a cell's function once, on values that record what is done to them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .graph import Graph
from .names import check_recurrent, gate_names, state_names, weight_names
from .nodes import Node, leaf, topological
from .refuse import definition_line, refusal
from .values import Gates, Value


def trace(
    function: Callable[..., Any],
    gates: Sequence[str] | int,
    states: Sequence[str] = ("h",),
    recurrent: str = "dense",
    weights: Sequence[str] | Mapping[str, object] = (),
    reads_input: bool = False,
    output: str | None = None,
) -> Graph:
    """What a Python function of one time step computes.

    Args:
        function: of ``x, r, *states, **weights``, of the values of one unit; see ``fastrnn.cell``.
        gates: their names, or how many there are.
        states: their names, the one that w_hh multiplies first.
        recurrent: "dense", "diagonal" or "none"; "none" takes ``r`` from the parameters.
        weights: names of the per-unit weights, or a mapping of names.
        reads_input: whether x_t itself is the first parameter.
        output: the name of a first result that the layer outputs but does not feed back.
    Raises:
        TypeError, ValueError: where the function does what a cell can't do. The message names the line.
    """
    recurrent = check_recurrent(recurrent)
    gate_list, state_list = gate_names(gates), state_names(states, output)
    leading = ("x",) if recurrent == "none" else ("x", "r")
    weight_list = weight_names(weights, (*leading, *state_list))
    _check_parameters(function, reads_input, (*leading, *state_list), weight_list, recurrent)

    named = not isinstance(gates, int)
    rows = len(gate_list) if recurrent == "diagonal" else 0  # of weight_hh
    state_values = [Value(leaf("state", k)) for k in range(len(state_list))]
    arguments: list[Any] = [Value(leaf("input"))] if reads_input else []
    arguments.append(Gates("x", gate_list, named, [Value(leaf("x", k)) for k in range(len(gate_list))]))
    if recurrent == "dense":
        arguments.append(Gates("r", gate_list, named, [Value(leaf("r", k)) for k in range(len(gate_list))]))
    elif recurrent == "diagonal":
        products = [Value(Node.make("mul", leaf("weight", k), leaf("state", 0))) for k in range(rows)]
        arguments.append(Gates("r", gate_list, named, products))
    keywords = {name: Value(leaf("weight", rows + k)) for k, name in enumerate(weight_list)}

    result = function(*arguments, *state_values, **keywords)
    names = state_list if output is None else (output, *state_list)
    results = _check_results(result, names, function)
    graph = Graph(gate_list, state_list, recurrent, weight_list, reads_input, output, results)
    _warn_of_unused(graph, function)
    return graph


def _check_parameters(
    function: Callable[..., Any], reads_input: bool, names: Sequence[str], weights: Sequence[str], recurrent: str
) -> None:
    expected = ", ".join((*(["input"] if reads_input else []), *names, *(["*", *weights] if weights else [])))
    expected = f"the cell's function must have the parameters ({expected})"
    if recurrent == "none":
        expected += ', with no r, since recurrent="none"'
    if not callable(function):
        raise TypeError(f"{expected}, got {type(function).__name__}, which isn't a function")
    parameters = list(inspect.signature(function).parameters.values())
    got = f"{expected}, got ({', '.join(map(str, parameters))})"

    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # x_t may have any name: input is one of Python's own.
    leading = positional[reads_input : reads_input + len(names)]
    if [p.name for p in leading] != list(names):
        raise refusal(TypeError, got, definition_line(function))
    rest = {p.name: p for p in parameters if p not in positional[: reads_input + len(names)]}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    missing = [name for name in weights if not takes_any and name not in rest]
    others = [
        p for p in rest.values()
        if p.name not in weights and p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip
    by_position = [name for name in weights if name in rest and rest[name].kind is inspect.Parameter.POSITIONAL_ONLY]
    if missing or others or by_position:
        raise refusal(TypeError, got, definition_line(function))


def _check_results(result: Any, names: Sequence[str], function: Callable[..., Any]) -> tuple[Node, ...]:
    line = definition_line(function)
    expected = f"the cell's function must return {names[0] if len(names) == 1 else '(' + ', '.join(names) + ')'}"
    values = tuple(result) if isinstance(result, tuple | list) else (result,)
    for name, value in zip(names, values, strict=False):
        if isinstance(value, Gates):
            raise refusal(TypeError, f"{expected}, but {name} is {value.name}, which is all gates", line)
        if value is None:
            raise refusal(TypeError, f"{expected}, but {name} is None: is a return missing?", line)
        if not isinstance(value, Value):
            raise refusal(TypeError, f"{expected}, but {name} is of type {type(value).__name__}", line)
        if value.node.is_condition:
            raise refusal(
                TypeError, f"{expected}, but {name} is a condition: write torch.where(condition, a, b)", value.line
            )
    if len(values) != len(names):
        raise refusal(ValueError, f"{expected}, got {len(values)} values", line)
    return tuple(value.node for value in values)


def _warn_of_unused(graph: Graph, function: Callable[..., Any]) -> None:
    """A UserWarning of what the layer would have weights for and multiply in vain."""
    nodes = set(topological(graph.results))
    first, of_r = (len(graph.gates), "weight") if graph.recurrent == "diagonal" else (0, "r")
    unused = [f"gate {name}" for k, name in enumerate(graph.gates) if nodes.isdisjoint((leaf("x", k), leaf(of_r, k)))]
    unused += [f"weight {name}" for k, name in enumerate(graph.weights) if leaf("weight", first + k) not in nodes]
    if unused:
        file, number = definition_line(function)
        warnings.warn_explicit(f"the cell's function never uses {', '.join(unused)}", UserWarning, file, number)
