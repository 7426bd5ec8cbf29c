"""Expressions: immutable nodes, of which there is one for each expression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from weakref import WeakValueDictionary

Number = float | int

# What a cell is given rather than computes. Each has an index, of a gate, a state or a weight; "input" has none.
# "grad" is the gradient of a result, "kept" what forward kept for backward.
LEAVES = ("x", "r", "input", "state", "weight", "grad", "kept", "constant")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")

_interning = Lock()
_interned: WeakValueDictionary[tuple[object, ...], Node] = WeakValueDictionary()


class Node:
    """An operation on other nodes and on numbers, or a leaf.

    Equal expressions are one object, so nodes are compared by identity. The operators build expressions for
    derivatives: they fold constants, drop additions of 0 and multiplications by 1 or 0, and subtract
    what is negative. ``make`` simplifies nothing.
    """

    __slots__ = ("__weakref__", "args", "numbers", "op")

    op: str
    args: tuple[Node, ...]
    numbers: tuple[Number, ...]

    @staticmethod
    def make(op: str, *args: Node, numbers: Sequence[Number] = ()) -> Node:
        # By repr, numbers are told apart as results may be: 0.0 from -0.0.
        key = (op, args, tuple(map(repr, numbers)))
        with _interning:
            node = _interned.get(key)
            if node is None:
                node = object.__new__(Node)
                for name, value in (("op", op), ("args", args), ("numbers", tuple(numbers))):
                    object.__setattr__(node, name, value)
                _interned[key] = node
        return node

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("nodes do not change")

    def __repr__(self) -> str:
        return f"{self.op}({', '.join(map(repr, (*self.args, *self.numbers)))})"

    @property
    def value(self) -> float | None:
        """Of a constant its number."""
        return self.numbers[0] if self.op == "constant" else None

    @property
    def is_condition(self) -> bool:
        return self.op in COMPARISONS

    def __add__(self, other: Node | Number) -> Node:
        b = as_node(other)
        if self.value is not None and b.value is not None:
            return constant(self.value + b.value)
        if self.value == 0:
            return b
        if self.op == "neg" or b.op == "neg":
            return self - b.args[0] if b.op == "neg" else b - self.args[0]
        return self if b.value == 0 else Node.make("add", self, b)

    def __radd__(self, other: Number) -> Node:
        return constant(other) + self

    def __sub__(self, other: Node | Number) -> Node:
        b = as_node(other)
        if self.value is not None and b.value is not None:
            return constant(self.value - b.value)
        if self.value == 0:
            return -b
        return self if b.value == 0 else Node.make("sub", self, b)

    def __rsub__(self, other: Number) -> Node:
        return constant(other) - self

    def __mul__(self, other: Node | Number) -> Node:
        b = as_node(other)
        if self.value is not None and b.value is not None:
            return constant(self.value * b.value)
        if self.value == 0 or b.value == 0:
            return ZERO
        for factor, rest in ((self, b), (b, self)):
            if factor.value in (1, -1):
                return rest if factor.value == 1 else -rest
        return Node.make("mul", self, b)

    def __rmul__(self, other: Number) -> Node:
        return constant(other) * self

    def __truediv__(self, other: Node | Number) -> Node:
        b = as_node(other)
        if self.value == 0:
            return ZERO
        return self if b.value == 1 else Node.make("div", self, b)

    def __rtruediv__(self, other: Number) -> Node:
        return constant(other) / self

    def __neg__(self) -> Node:
        if self.value is not None:
            return constant(-self.value) if self.value else ZERO
        return self.args[0] if self.op == "neg" else Node.make("neg", self)


def constant(value: Number) -> Node:
    return Node.make("constant", numbers=(float(value),))


def as_node(value: Node | Number) -> Node:
    return value if isinstance(value, Node) else constant(value)


ZERO = constant(0)


def leaf(kind: str, index: int | None = None) -> Node:
    """One of LEAVES but a constant."""
    return Node.make(kind, numbers=() if index is None else (index,))


def compare(op: str, a: Node, b: Node | Number) -> Node:
    return Node.make(op, a, as_node(b))


def where(condition: Node, a: Node | Number, b: Node | Number) -> Node:
    a, b = as_node(a), as_node(b)
    return a if a is b else Node.make("where", condition, a, b)


def call(op: str, x: Node, *numbers: Number) -> Node:
    """A function of one value."""
    return Node.make(op, x, numbers=numbers)


def topological(roots: Iterable[Node]) -> list[Node]:
    """Every node that the roots consist of, each after its arguments, in an order that depends on nothing else."""
    order: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(tuple(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.setdefault(node)
        elif node not in order:
            stack.append((node, True))
            stack += [(arg, False) for arg in reversed(node.args)]
    return list(order)


def replace(roots: Sequence[Node], replacements: Mapping[Node, Node]) -> tuple[Node, ...]:
    """The roots with some of the nodes that they consist of replaced."""
    made = dict(replacements)
    stack = list(roots)
    while stack:
        node = stack[-1]
        missing = [] if node in made else [arg for arg in node.args if arg not in made]
        if missing:
            stack += missing
            continue
        stack.pop()
        if node not in made:
            made[node] = Node.make(node.op, *(made[arg] for arg in node.args), numbers=node.numbers)
    return tuple(made[root] for root in roots)
