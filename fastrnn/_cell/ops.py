"""The operations that a cell's function may consist of: how torch computes them, their derivatives, their C++.

Values and derivatives are torch's, kinks and ties and NaN included: the derivatives follow torch's
``tools/autograd/derivatives.yaml``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .nodes import COMPARISONS, ZERO, Node, Number, call, compare, constant, topological, where

# How tightly an operation's C++ binds.
COMPARISON, SUM, PRODUCT, SIGN, CALL = range(5)


@dataclass(frozen=True)
class Op:
    """One operation.

    ``code`` is C++ with ``{0}``, ``{1}`` for its arguments. An operation that C++ has no word for is lowered: expressed
    by others, which may depend on its numbers. ``lower`` returns None where there is nothing to lower.
    """

    evaluate: Callable[..., Tensor]  # of the arguments, tensors or constants, and the numbers
    # Of the result's gradient, the result, the arguments and the numbers: each argument's gradient.
    gradients: Callable[..., tuple[Node, ...]] | None = None
    code: str = ""
    level: int = CALL
    lower: Callable[..., Node | None] | None = None  # of the arguments and the numbers


def _greater(a: Node, b: Node | Number) -> Node:
    return compare("gt", a, b)


def _sigmoid(x: Node) -> Node:
    return call("sigmoid", x)


def _power_gradient(g: Node, y: Node, x: Node, exponent: float) -> tuple[Node]:
    if exponent in (0, 1):
        return (g * exponent,)
    return (g * (exponent * (x if exponent == 2 else call("pow", x, exponent - 1))),)


def _lower_power(x: Node, exponent: float) -> Node | None:
    # The exponents that torch, too, computes without a power.
    simple: dict[float, Callable[[], Node]] = {
        1: lambda: x,
        2: lambda: x * x,
        3: lambda: x * x * x,
        0.5: lambda: call("sqrt", x),
        -0.5: lambda: call("rsqrt", x),
        -1: lambda: call("reciprocal", x),
        -2: lambda: call("reciprocal", x * x),
    }
    return simple[exponent]() if exponent in simple else None


def _larger_gradients(loses: str, wins: str) -> Callable[..., tuple[Node, Node]]:
    def gradients(g: Node, y: Node, a: Node, b: Node) -> tuple[Node, Node]:
        shared = where(compare("eq", a, b), g * 0.5, g)
        return where(compare(loses, a, b), ZERO, shared), where(compare(wins, a, b), ZERO, shared)

    return gradients


def _clamp_gradient(g: Node, y: Node, x: Node, low: float, high: float) -> tuple[Node]:
    if high < math.inf:
        g = where(compare("le", x, high), g, ZERO)
    return (where(compare("ge", x, low), g, ZERO) if low > -math.inf else g,)


def _lower_clamp(x: Node, low: float, high: float) -> Node:
    if low > -math.inf:
        x = Node.make("maximum", x, constant(low))
    return Node.make("minimum", x, constant(high)) if high < math.inf else x


def _leaky_gradient(g: Node, y: Node, x: Node, slope: float) -> tuple[Node]:
    # The result has the input's sign and may be in memory already.
    return (where(_greater(y if slope >= 0 else x, 0), g, g * slope),)


def _lower_leaky(x: Node, slope: float) -> Node:
    # With a slope of 0, too, -inf becomes NaN.
    return where(_greater(x, 0), x, Node.make("mul", x, constant(slope)))


def _softplus_gradient(g: Node, y: Node, x: Node, beta: float, threshold: float) -> tuple[Node]:
    return (where(_greater(x * beta, threshold), g, g * _sigmoid(x * beta)),)


def _lower_softplus(x: Node, beta: float, threshold: float) -> Node:
    return where(_greater(x * beta, threshold), x, call("log1p_exp", x * beta) / beta)


def _silu_gradient(g: Node, y: Node, x: Node) -> tuple[Node]:
    s = _sigmoid(x)
    return (g * s * (1 + x * (1 - s)),)


_GELU_SCALE, _GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh(x: Node) -> Node:
    return call("tanh", _GELU_SCALE * (x + _GELU_CUBE * (x * x * x)))


def _gelu_gradient(g: Node, y: Node, x: Node) -> tuple[Node]:
    tanh = _gelu_tanh(x)
    inner = _GELU_SCALE * (1 + 3 * _GELU_CUBE * (x * x))
    return (g * (0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner),)


def _hardsigmoid_gradient(g: Node, y: Node, x: Node) -> tuple[Node]:
    # Torch's sixth is rounded to float even in double.
    return (where(_greater(x, -3), where(compare("lt", x, 3), g * (1 / 6), ZERO), ZERO),)


def _of_tensors(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor | float], Tensor]:
    return lambda a, b: function(a, b if isinstance(b, Tensor) else a.new_tensor(b))


def _logaddexp_zero(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


_ARITHMETIC = {
    "add": Op(operator.add, lambda g, y, a, b: (g, g), "{0} + {1}", SUM),
    "sub": Op(operator.sub, lambda g, y, a, b: (g, -g), "{0} - {1}", SUM),
    "mul": Op(operator.mul, lambda g, y, a, b: (g * b, g * a), "{0} * {1}", PRODUCT),
    "div": Op(operator.truediv, lambda g, y, a, b: (g / b, -g * (y / b)), "{0} / {1}", PRODUCT),
    "neg": Op(torch.neg, lambda g, y, x: (-g,), "-{0}", SIGN),
    "square": Op(torch.square, lambda g, y, x: (g * (2 * x),), lower=lambda x: x * x),
    "reciprocal": Op(torch.reciprocal, lambda g, y, x: (-g * (y * y),), "1 / {0}", PRODUCT),
    "sqrt": Op(torch.sqrt, lambda g, y, x: (g / (2 * y),), "sqrt<V>({0})"),
    "rsqrt": Op(torch.rsqrt, lambda g, y, x: (-0.5 * g * (y * y * y),), "rsqrt<V>({0})"),
    "abs": Op(torch.abs, lambda g, y, x: (g * call("sign", x),), "abs<V>({0})"),
    "exp": Op(torch.exp, lambda g, y, x: (g * y,), "exp<V>({0})"),
    "expm1": Op(torch.expm1, lambda g, y, x: (g * (y + 1),), "expm1<V>({0})"),
    "log1p": Op(torch.log1p, lambda g, y, x: (g / (x + 1),), "log1p<V>({0})"),
    "log": Op(torch.log, lambda g, y, x: (g / x,), "log<V>({0})"),
    "pow": Op(torch.pow, _power_gradient, "power<V>({0}, {numbers})", lower=_lower_power),
}

_ACTIVATIONS = {
    "sigmoid": Op(torch.sigmoid, lambda g, y, x: (g * (1 - y) * y,), "sigmoid<V>({0})"),
    "tanh": Op(torch.tanh, lambda g, y, x: (g * (1 - y * y),), "tanh<V>({0})"),
    "relu": Op(
        torch.relu,
        lambda g, y, x: (where(compare("le", y, 0), ZERO, g),),
        lower=lambda x: where(compare("lt", x, 0), ZERO, x),
    ),
    "leaky_relu": Op(F.leaky_relu, _leaky_gradient, lower=_lower_leaky),
    "elu": Op(
        F.elu,
        lambda g, y, x, alpha: (where(_greater(x, 0), g, g * (alpha * call("exp", x))),),
        lower=lambda x, alpha: where(compare("le", x, 0), alpha * call("expm1", x), x),
    ),
    "softplus": Op(F.softplus, _softplus_gradient, lower=_lower_softplus),
    "silu": Op(F.silu, _silu_gradient, lower=lambda x: x * _sigmoid(x)),
    "gelu": Op(lambda x: F.gelu(x, approximate="tanh"), _gelu_gradient, lower=lambda x: 0.5 * x * (1 + _gelu_tanh(x))),
    "logsigmoid": Op(F.logsigmoid, lambda g, y, x: (g * _sigmoid(-x),), lower=lambda x: -call("log1p_exp", -x)),
    "hardsigmoid": Op(F.hardsigmoid, _hardsigmoid_gradient, lower=lambda x: call("clamp", x + 3, 0.0, 6.0) / 6),
}

_CHOICES = {
    "clamp": Op(torch.clamp, _clamp_gradient, lower=_lower_clamp),
    "minimum": Op(_of_tensors(torch.minimum), _larger_gradients("gt", "lt"), "minimum<V>({0}, {1})"),
    "maximum": Op(_of_tensors(torch.maximum), _larger_gradients("lt", "gt"), "maximum<V>({0}, {1})"),
    "where": Op(
        torch.where,
        lambda g, y, condition, a, b: (ZERO, where(condition, g, ZERO), where(condition, ZERO, g)),
        "select<V>({0}, {1}, {2})",
    ),
}

_SYMBOLS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_COMPARISONS = {
    name: Op(getattr(operator, name), lambda g, y, a, b: (ZERO, ZERO), f"{{0}} {_SYMBOLS[name]} {{1}}", COMPARISON)
    for name in COMPARISONS
}

# What derivatives and lowered operations consist of beside the others. They have no derivatives themselves.
_INTERNAL = {
    "sign": Op(torch.sgn, lower=lambda x: where(_greater(x, 0), 1, where(compare("lt", x, 0), -1, ZERO))),
    "log1p_exp": Op(_logaddexp_zero, code="log1p_exp<V>({0})"),
}

OPS: dict[str, Op] = {
    **_ARITHMETIC,
    **_ACTIVATIONS,
    **_CHOICES,
    **_COMPARISONS,
    **_INTERNAL,
    "detach": Op(torch.detach, lambda g, y, x: (ZERO,), lower=lambda x: x),
}


def lowered(roots: tuple[Node, ...]) -> tuple[Node, ...]:
    """The same values by operations that C++ has words for."""
    made: dict[Node, Node] = {}

    def lower(node: Node) -> Node:
        # What a node was lowered to has few more levels than its arguments, which are lowered already.
        if node not in made:
            plain = Node.make(node.op, *map(lower, node.args), numbers=node.numbers)
            op = OPS.get(node.op)
            other = op.lower(*plain.args, *plain.numbers) if op and op.lower else None
            made[node] = plain if other is None or other is plain else lower(other)
        return made[node]

    for node in topological(roots):
        lower(node)
    return tuple(made[root] for root in roots)
