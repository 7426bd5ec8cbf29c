"""What torch's functions and tensors' methods mean in a cell's function.

A word is a function of the traced value and the other arguments, by torch's names and in torch's order. It calls
``Value.apply``, which makes an operation of ``ops``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .refuse import refusal

if TYPE_CHECKING:
    from .values import Value

Word = Callable[..., "Value"]


def _unary(op: str) -> Word:
    return lambda input: input.apply(op)


def _activation(op: str) -> Word:
    def word(input: Value, inplace: bool = False) -> Value:
        return _out_of_place(input, op, inplace).apply(op)

    return word


def _out_of_place(value: Value, name: str, inplace: bool) -> Value:
    if inplace:
        raise refusal(TypeError, f"{name} with inplace=True: a value of a cell's function can't be changed in place")
    return value


def _binary(op: str) -> Word:
    return lambda input, other: input.apply(op, other)


def _sum(op: str) -> Word:
    def word(input: Value, other: Any, alpha: float = 1) -> Value:
        return input.apply(op, other if alpha == 1 else other * alpha)

    return word


def _larger(op: str, bound: str) -> Word:
    def word(input: Value, other: Any) -> Value:
        if not hasattr(other, "apply"):
            raise refusal(TypeError, f"torch.{op} takes two tensors: with a number write torch.clamp(a, {bound}=...)")
        return input.apply(op, other)

    return word


def _div(input: Value, other: Any, rounding_mode: None = None) -> Value:
    if rounding_mode is not None:
        raise refusal(TypeError, "torch.div with a rounding_mode has no place in a cell's function")
    return input.apply("div", other)


def _pow(input: Value, exponent: Any) -> Value:
    return input.apply("pow", numbers=(exponent,))


def _leaky_relu(input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return _out_of_place(input, "leaky_relu", inplace).apply("leaky_relu", numbers=(negative_slope,))


def _elu(input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    return _out_of_place(input, "elu", inplace).apply("elu", numbers=(alpha,))


def _softplus(input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    return input.apply("softplus", numbers=(beta, threshold))


def _gelu(input: Value, approximate: str = "none") -> Value:
    if approximate != "tanh":
        raise refusal(ValueError, 'gelu: only gelu(a, approximate="tanh") has a place in a cell\'s function')
    return input.apply("gelu")


def _clamp(input: Value, min: Any = None, max: Any = None) -> Value:
    if min is None and max is None:
        raise refusal(ValueError, "clamp: at least one of min and max must be a number")
    for bound, by in ((min, "maximum"), (max, "minimum")):
        if hasattr(bound, "apply"):
            raise refusal(TypeError, f"clamp takes numbers: between two values write torch.{by}(a, b)")
    return input.apply("clamp", numbers=(-math.inf if min is None else min, math.inf if max is None else max))


def _clamp_min(input: Value, min: Any) -> Value:
    return _clamp(input, min=min)


def _clamp_max(input: Value, max: Any) -> Value:
    return _clamp(input, max=max)


def _where(condition: Value, input: Any, other: Any) -> Value:
    return condition.choose(input, other)


_ALIASES = {
    "negative": "neg", "multiply": "mul", "subtract": "sub", "true_divide": "div", "divide": "div",
    "absolute": "abs", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne",
    "special_expit": "sigmoid", "log_sigmoid": "logsigmoid", "special_expm1": "expm1", "special_log1p": "log1p",
}  # fmt: skip

WORDS: dict[str, Word] = {
    "add": _sum("add"),
    "sub": _sum("sub"),
    "mul": _binary("mul"),
    "div": _div,
    **{op: _unary(op) for op in ("neg", "square", "reciprocal", "sqrt", "rsqrt", "abs", "exp", "log")},
    **{op: _unary(op) for op in ("expm1", "log1p", "sigmoid")},
    "pow": _pow,
    "logsigmoid": _unary("logsigmoid"),
    "tanh": _unary("tanh"),
    **{op: _activation(op) for op in ("relu", "silu", "hardsigmoid")},
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "gelu": _gelu,
    "clamp": _clamp,
    "clamp_min": _clamp_min,
    "clamp_max": _clamp_max,
    "minimum": _larger("minimum", "max"),
    "maximum": _larger("maximum", "min"),
    "where": _where,
    **{op: _binary(op) for op in ("lt", "le", "gt", "ge", "eq", "ne")},
    "detach": _unary("detach"),
}
ALLOWED = f"+ - * / ** and comparisons, {', '.join(WORDS)}"

_PRODUCTS = (
    "matmul", "mm", "bmm", "mv", "dot", "linear", "bilinear", "einsum", "addmm", "inner", "outer", "baddbmm", "conv1d",
)  # fmt: skip
_RANDOM = (
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "bernoulli",
    "normal",
    "rrelu",
    "gumbel_softmax",
    "multinomial",
)
_SHAPES = (
    "shape",
    "size",
    "dim",
    "ndim",
    "numel",
    "dtype",
    "device",
    "to",
    "float",
    "double",
    "half",
    "item",
    "requires_grad",
)
_FILLED = ("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_tensor")
_LOGICAL = ("logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not")


def find_word(name: str) -> Word:
    """What a function of torch or a method of a tensor means, by its name; an error where it has no place in a cell."""
    plain = _ALIASES.get(name, name)
    if plain in WORDS:
        return WORDS[plain]
    if name.endswith("_") and not name.endswith("__"):
        advice = f"a value of a cell's function can't be changed in place: write a = a.{name[:-1]}(...)"
    elif name in _PRODUCTS:
        advice = no_product()
    elif name in _RANDOM or name.startswith("rand"):
        advice = "a cell's function is traced once, so nothing in it may be random; layers have dropout and zoneout"
    elif name in _FILLED:
        advice = "write the number itself, for instance torch.where(condition, a, 0.0)"
    elif name in _SHAPES:
        advice = "a cell's function is written for one unit of any layer: shape, dtype and device aren't known"
    elif name in _LOGICAL:
        advice = "combine conditions by nesting torch.where"
    else:
        advice = f"every unit is computed by itself, and allowed are {ALLOWED}"
    raise refusal(TypeError, f"{name} has no place in a cell's function: {advice}")


def no_product() -> str:
    return (
        "every unit is computed by itself from x, r and the states. The matrix products W_ih x_t and W_hh h_{t-1} are "
        "made before the function is called and can't come after a gate, as in W_hh (r * h)"
    )
