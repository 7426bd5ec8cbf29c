"""Runs a cell's function once, on values that record what is done to them."""

from __future__ import annotations

import inspect
import numbers as python_numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from .graph import Graph
from .names import check_name, check_recurrent, gate_names, state_names, weight_names
from .nodes import Node, constant, leaf
from .refuse import definition_line, refusal, user_line
from .words import find_word, no_product


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
    return Graph(gate_list, state_list, recurrent, weight_list, reads_input, output is not None, results)


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
    expected = f"the cell's function must return {names[0] if len(names) == 1 else f'({", ".join(names)})'}"
    values = tuple(result) if isinstance(result, tuple | list) else (result,)
    for name, value in zip(names, values, strict=False):
        if isinstance(value, Gates):
            raise refusal(TypeError, f"{expected}, but {name} is {value.name}, which is all gates", line)
        if not isinstance(value, Value):
            raise refusal(TypeError, f"{expected}, but {name} is of type {type(value).__name__}", line)
        if value.node.is_condition:
            raise refusal(TypeError, f"{expected}, but {name} is a condition: write torch.where(condition, a, b)", value.line)
    if len(values) != len(names):
        raise refusal(ValueError, f"{expected}, got {len(values)} values", line)
    return tuple(value.node for value in values)


class Gates:
    """``x`` or ``r``: a value for each gate, by name or by index."""

    def __init__(self, name: str, gates: Sequence[str], named: bool, values: Sequence[Value]) -> None:
        self.name, self._gates, self._named, self._values = name, gates, named, values

    def __getattr__(self, gate: str) -> Value:
        if gate.startswith("__"):
            raise AttributeError(gate)
        if self._named and gate in self._gates:
            return self._values[self._gates.index(gate)]
        there = ", ".join(f"{self.name}.{g}" if self._named else f"{self.name}[{g}]" for g in self._gates)
        raise refusal(AttributeError, f"there is no {self.name}.{gate}: the cell has {there}")

    def __getitem__(self, index: int) -> Value:
        if isinstance(index, bool) or not isinstance(index, int):
            raise refusal(TypeError, f"{self.name}[{index!r}]: {self.name} takes the number of a gate")
        if not -len(self._values) <= index < len(self._values):
            raise refusal(IndexError, f"there is no {self.name}[{index}]: the cell has {len(self._values)} gates")
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values)

    def _no_arithmetic(self, *_: object) -> Any:
        raise refusal(TypeError, f"{self.name} is all gates, take one: {self.name}.{self._gates[0]}"
                      if self._named else f"{self.name} is all gates, take one: {self.name}[0]")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _no_arithmetic
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = _no_arithmetic

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gates = next(arg for arg in _flat((args, kwargs or {})) if isinstance(arg, Gates))
        return gates._no_arithmetic()


def _flat(arguments: Any) -> Iterator[Any]:
    if isinstance(arguments, Mapping):
        arguments = arguments.values()
    for argument in arguments:
        if isinstance(argument, tuple | list | Mapping):
            yield from _flat(argument)
        else:
            yield argument


def _refuse_outsiders(name: str, arguments: Any) -> None:
    for argument in _flat(arguments):
        if isinstance(argument, Tensor) or type(argument).__module__ == "numpy" and hasattr(argument, "__array__") and getattr(argument, "ndim", 0):
            raise refusal(
                TypeError,
                f"{name} takes a tensor from outside the cell's function: pass it as one of weights=, or a number as a "
                "Python number",
            )


class Value:
    """A value of the function being traced, in place of a tensor."""

    __slots__ = ("line", "node")
    __array_ufunc__ = None  # NumPy leaves its arrays' arithmetic with values to the methods below
    __hash__ = object.__hash__

    def __init__(self, node: Node) -> None:
        self.node, self.line = node, user_line()

    def __repr__(self) -> str:
        return f"Value({self.node})"

    def apply(self, op: str, *others: Any, numbers: Sequence[Any] = ()) -> Value:
        """An operation on this value, others and numbers."""
        nodes = [_operand(op, value) for value in (self, *others)]
        return Value(Node.make(op, *nodes, numbers=[_number(op, number) for number in numbers]))

    def apply_reversed(self, op: str, other: Any) -> Value:
        return Value(Node.make(op, _operand(op, other), _operand(op, self)))

    def choose(self, a: Any, b: Any) -> Value:
        """``a`` where this condition is true, ``b`` where it isn't."""
        if not isinstance(self, Value) or not self.node.is_condition:
            raise refusal(TypeError, "where takes a condition first, for instance torch.where(a > 0, a, b)")
        return Value(Node.make("where", self.node, _operand("where", a), _operand("where", b)))

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Value:
        return _call(getattr(func, "__name__", str(func)), args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        find_word(name)
        if name == "where":
            return lambda condition, other: condition.choose(self, other)
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __pos__(self) -> Value:
        return self

    def __rpow__(self, other: Any) -> Value:
        raise refusal(TypeError, "pow takes a number as its exponent: write torch.exp(a * math.log(base))")

    def _no_branch(self) -> Any:
        raise refusal(
            TypeError, "a cell's function can't branch on a value, which differs from unit to unit: use torch.where"
        )

    __bool__ = _no_branch

    def _no_number(self) -> Any:
        raise refusal(
            TypeError,
            "a value of a cell's function isn't a number while it is traced: use torch's functions, not Python's",
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = __trunc__ = __floor__ = __ceil__ = _no_number

    def _no_elements(self, *_: Any) -> Any:
        raise refusal(TypeError, "a value of a cell's function is that of one unit: it has no elements, length or index")

    __len__ = __iter__ = __getitem__ = __setitem__ = __contains__ = __reversed__ = _no_elements

    def _no_product(self, _: Any) -> Any:
        raise refusal(TypeError, f"@ has no place in a cell's function: {no_product()}")

    __matmul__ = __rmatmul__ = __imatmul__ = _no_product

    def _no_logic(self, *_: Any) -> Any:
        raise refusal(TypeError, "& | ^ ~ have no place in a cell's function: combine conditions by nesting torch.where")

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _no_logic
