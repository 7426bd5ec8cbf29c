"""What a cell's function is run on: values that record what is done to them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from .nodes import Node, constant
from .refuse import refusal, user_line
from .words import ALLOWED, find_word, no_product


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

    def no_arithmetic(self, *_: object) -> Any:
        one = f".{self._gates[0]}" if self._named else "[0]"
        raise refusal(TypeError, f"{self.name} is all gates: take one, as in {self.name}{one}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = no_arithmetic
    __matmul__ = __rmatmul__ = __pow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = no_arithmetic

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gates = next(arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, Gates))
        return gates.no_arithmetic()


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
        if not hasattr(Tensor, name):
            raise refusal(AttributeError, f"tensors have no {name}: write torch.nn.functional.{name}(a)")
        if name == "where":
            return lambda condition, other: condition.choose(self, other)
        return lambda *args, **kwargs: _call(name, (self, *args), kwargs)

    def __add__(self, other: Any) -> Value:
        return self.apply("add", other)

    def __radd__(self, other: Any) -> Value:
        return self.apply_reversed("add", other)

    def __sub__(self, other: Any) -> Value:
        return self.apply("sub", other)

    def __rsub__(self, other: Any) -> Value:
        return self.apply_reversed("sub", other)

    def __mul__(self, other: Any) -> Value:
        return self.apply("mul", other)

    def __rmul__(self, other: Any) -> Value:
        return self.apply_reversed("mul", other)

    def __truediv__(self, other: Any) -> Value:
        return self.apply("div", other)

    def __rtruediv__(self, other: Any) -> Value:
        return self.apply_reversed("div", other)

    def __pow__(self, exponent: Any) -> Value:
        return self.apply("pow", numbers=(exponent,))

    def __lt__(self, other: Any) -> Value:
        return self.apply("lt", other)

    def __le__(self, other: Any) -> Value:
        return self.apply("le", other)

    def __gt__(self, other: Any) -> Value:
        return self.apply("gt", other)

    def __ge__(self, other: Any) -> Value:
        return self.apply("ge", other)

    def __eq__(self, other: Any) -> Value:  # type: ignore[override]
        return self.apply("eq", other)

    def __ne__(self, other: Any) -> Value:  # type: ignore[override]
        return self.apply("ne", other)

    def __neg__(self) -> Value:
        return self.apply("neg")

    def __abs__(self) -> Value:
        return self.apply("abs")

    def __pos__(self) -> Value:
        return self

    def __rpow__(self, base: Any) -> Value:
        raise _no_exponent()

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
        raise refusal(
            TypeError, "a value of a cell's function is that of one unit: it has no elements, length or index"
        )

    __len__ = __iter__ = __getitem__ = __setitem__ = __contains__ = __reversed__ = _no_elements

    def _no_product(self, _: Any) -> Any:
        raise refusal(TypeError, f"@ has no place in a cell's function: {no_product()}")

    __matmul__ = __rmatmul__ = __imatmul__ = _no_product

    def _no_logic(self, *_: Any) -> Any:
        raise refusal(
            TypeError, "& | ^ ~ have no place in a cell's function: combine conditions by nesting torch.where"
        )

    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _no_logic

    def _not_in_place(self, _: Any) -> Any:
        raise refusal(
            TypeError,
            "a value of a cell's function can't be changed in place, as a += b does to a tensor: write a = a + b",
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __ifloordiv__ = __imod__ = _not_in_place

    def _unknown(self, *_: Any) -> Any:
        raise refusal(TypeError, f"// % << >> have no place in a cell's function: allowed are {ALLOWED}")

    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __divmod__ = __lshift__ = __rshift__ = _unknown


def _call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Value:
    """A function of torch or a method of a tensor."""
    word = find_word(name)
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, Tensor):
            raise _from_outside(name)
    signature = inspect.signature(word)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise refusal(TypeError, f"{name}: {error}; in a cell's function it takes ({takes})") from None
    first = next(iter(bound.arguments.values()))
    if isinstance(first, Value):
        return word(*bound.args, **bound.kwargs)
    if name == "pow":
        raise _no_exponent()
    if name in ("add", "sub", "mul", "div") and len(bound.args) == 2:
        return bound.args[1].apply_reversed(name, first)
    raise refusal(TypeError, f"{name} takes a value of the cell's function first, got {first!r}")


def _from_outside(op: str) -> Exception:
    return refusal(
        TypeError,
        f"{op} of a tensor from outside the cell's function: pass it as one of weights=, or as a Python number",
    )


def _no_exponent() -> Exception:
    return refusal(TypeError, "pow takes a number as its exponent: write torch.exp(b * torch.log(a)) for a ** b")


def _operand(op: str, value: Any) -> Node:
    if isinstance(value, Value):
        if value.node.is_condition:
            raise refusal(TypeError, f"{op} of a condition: write torch.where(condition, a, b)")
        return value.node
    return constant(_number(op, value))


def _number(op: str, value: Any) -> float:
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Gates):
        value.no_arithmetic()
    if isinstance(value, Value):
        if op == "pow":
            raise _no_exponent()
        raise refusal(TypeError, f"{op} takes a Python number here, not a value of the cell's function")
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        raise _from_outside(op)
    raise refusal(TypeError, f"{op} takes values of the cell's function and numbers, got {type(value).__name__}")
