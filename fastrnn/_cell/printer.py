"""Prints expressions as statements, in C++ or as equations to be read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from .nodes import ZERO, Node, topological
from .ops import CALL, COMPARISON, OPS, SIGN

_LONGEST = 44  # a part of an expression that is longer gets a name
_LARGEST_BARE = 1000  # whole numbers up to this one have no type: 2 * x


class Printer:
    """Statements for some values, in an order in which each can be computed.

    Args:
        leaf: the text of a leaf that isn't a constant.
        cpp: C++, of nodes that ``ops.lowered`` has lowered; or else equations.
    """

    def __init__(self, leaf: Callable[[Node], str], cpp: bool) -> None:
        self._leaf, self._cpp = leaf, cpp
        self._texts: dict[Node, tuple[str, int]] = {}  # and how tightly they bind
        self._statements: list[str] = []
        self._named = 0

    def statements(self, roots: Sequence[Node], targets: Sequence[str]) -> list[str]:
        """Assigns each root to its target, after naming what is used more than once."""
        order = topological(roots)
        uses = Counter([arg for node in order for arg in node.args] + list(roots))
        for node in order:
            text, level = self._text(node)
            if node.args and (uses[node] > 1 or (len(text) > _LONGEST and node not in roots)):
                text, level = self._name(node, text), CALL
            self._texts[node] = text, level
        end = ";" if self._cpp else ""
        assigned = [
            f"{target} = {self._argument(root, False) if root.value is not None else self._texts[root][0]}{end}"
            for root, target in zip(roots, targets, strict=True)
        ]
        return self._statements + assigned

    def _name(self, node: Node, text: str) -> str:
        name = f"v{self._named}"
        self._named += 1
        kind = "const auto " if node.is_condition else "const V "
        self._statements.append(f"{kind}{name} = {text};" if self._cpp else f"{name} = {text}")
        return name

    def _text(self, node: Node) -> tuple[str, int]:
        if node.value is not None:
            return _number(node.value), SIGN
        if not node.args:
            return self._leaf(node), CALL
        op = OPS[node.op]
        if op.level != CALL:
            return op.code.format(*self._infix(node, op.code, op.level)), op.level
        arguments = [self._argument(arg, False) for arg in node.args]
        if self._cpp:
            return op.code.format(*arguments, numbers=", ".join(map(_number, node.numbers))), CALL
        return f"{node.op}({', '.join((*arguments, *map(_number, node.numbers)))})", CALL

    def _infix(self, node: Node, code: str, level: int) -> list[str]:
        """The arguments of an operator, in parentheses where they need them to be computed first."""
        arguments = []
        for k, arg in enumerate(node.args):
            text, binds = self._argument(arg, True), self._texts[arg][1]
            first = k == 0 and code.startswith("{0}")
            enough = binds >= level if first and level != COMPARISON else binds > level
            arguments.append(text if enough else f"({text})")
        return arguments

    def _argument(self, arg: Node, of_operator: bool) -> str:
        """C++ infers the type of a number only where an operator combines it with a value."""
        if arg.value is None or not self._cpp:
            return self._texts[arg][0]
        if of_operator and _is_small_integer(arg.value):
            return _number(arg.value)
        return "V{}" if arg is ZERO else f"constant<V>({_number(arg.value)})"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return str(int(value)) if _is_small_integer(value) else repr(float(value))


def _is_small_integer(value: float) -> bool:
    return value.is_integer() and abs(value) <= _LARGEST_BARE and repr(value) != "-0.0"
