"""Cells as users write them, each a function of one time step, for the tests of ``fastrnn._cell``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from fastrnn._cell.graph import Graph
from fastrnn._cell.trace import trace


@dataclass(frozen=True)
class Written:
    """A function and what it is declared with."""

    function: Callable[..., Any]
    gates: Sequence[str] | int
    kept: int  # values per unit that forward has to keep
    separate: int = 0  # the gates whose biases are separate
    states: tuple[str, ...] = ("h",)
    recurrent: str = "dense"
    weights: tuple[str, ...] = ()
    reads_input: bool = False
    output: str | None = None

    def trace(self) -> Graph:
        return trace(
            self.function, self.gates, self.states, self.recurrent, self.weights, self.reads_input, self.output
        )


def elman(x, r, h):
    return torch.tanh(x[0] + r[0])


def lstm(x, r, h, c):
    i, f, o = torch.sigmoid(x.i + r.i), torch.sigmoid(x.f + r.f), torch.sigmoid(x.o + r.o)
    c = f * c + i * torch.tanh(x.g + r.g)
    return o * torch.tanh(c), c


def lstm_peephole(x, r, h, c, *, w_i, w_f, w_o):
    i = torch.sigmoid(x.i + w_i * c + r.i)
    f = torch.sigmoid(x.f + r.f + w_f * c)
    c = f * c + i * (x.g + r.g).tanh()
    return torch.sigmoid(x.o + r.o + w_o * c) * torch.tanh(c), c


def gru(x, r, h):
    reset = torch.sigmoid(x.r + r.r)
    z = torch.sigmoid(x.z + r.z)
    n = torch.tanh(x.n + reset * r.n)
    return (1 - z) * n + z * h


def li_gru(x, r, h):
    z = torch.sigmoid(x.z + r.z)
    a = torch.relu(x.a + r.a)
    return z * h + (1 - z) * a


def indrnn(x, r, h):
    return F.relu(x[0] + r[0])


def mgu(x, r, h):
    f = torch.sigmoid(x.f + r.f)
    return (1 - f) * h + f * torch.tanh(x.n + f * r.n)


def janet(x, r, h):
    s = x.f + r.f
    return torch.sigmoid(s) * h + (1 - torch.sigmoid(s - 1.5)) * torch.tanh(x.g + r.g)


def min_gru(x, h):
    z = torch.sigmoid(x.z)
    return (1 - z) * h + z * torch.where(x.n >= 0, x.n + 0.5, torch.sigmoid(x.n))


def slstm(x, r, h, c, n, m):
    forget = F.logsigmoid(x.f + r.f)
    after = torch.maximum(forget + m, x.i + r.i)
    i, f = torch.exp(x.i + r.i - after), torch.exp(forget + m - after)
    c = f * c + i * torch.tanh(x.z + r.z)
    n = f * n + i
    return torch.sigmoid(x.o + r.o) * (c / n), c, n, after


def six_gates(x, r, h):
    a, b, c, d, e, f = (u + v for u, v in zip(x, r, strict=True))
    return a.sigmoid() * h + F.silu(b) * torch.tanh(c) + F.gelu(d, approximate="tanh") * F.elu(e) - F.hardsigmoid(f)


def three_states(x, r, h, c, p):
    f, i = torch.sigmoid(x.f + r.f), torch.sigmoid(x.i + r.i)
    c, p = f * c + i * torch.tanh(x.g + r.g), p.clamp(-1, 1) * 0.5 + c
    return torch.sigmoid(x.o + r.o) * torch.tanh(c) - 0.1 * p, c, p


def soft(x, r, h):
    s = x.s + r.s
    return torch.where(s > h, F.softplus(s), 0.25 * F.leaky_relu(x.t + r.t, 0.1)) / (1 + torch.abs(h))


def scaled(x, r, h, *, gain, bias, unused):
    return torch.tanh(gain * (x.a + r.a) + bias) + 0.5 * h


def sru(x, c, *, v_f, v_r):
    f = torch.sigmoid(x.f + v_f * c)
    r = torch.sigmoid(x.r + v_r * c)
    after = f * c + (1 - f) * x.w
    return r * after + (1 - r) * x.skip, after


def highway(input, x, r, h):
    t = torch.sigmoid(x.t + r.t)
    return t * torch.tanh(x.a + r.a) + (1 - t) * input


def leftovers(x, r, h, c):
    return torch.tanh(x.a + r.b), h


CELLS = {
    "elman": Written(elman, 1, 1),
    "lstm": Written(lstm, ("i", "f", "g", "o"), 4, states=("h", "c")),
    "lstm_peephole": Written(lstm_peephole, ("i", "f", "g", "o"), 4, states=("h", "c"), weights=("w_i", "w_f", "w_o")),
    "gru": Written(gru, ("r", "z", "n"), 4, 0b100),
    "li_gru": Written(li_gru, ("z", "a"), 2),
    "indrnn": Written(indrnn, 1, 1, 0b1, recurrent="diagonal"),
    "mgu": Written(mgu, ("f", "n"), 3, 0b10),
    "janet": Written(janet, ("f", "g"), 2),
    "min_gru": Written(min_gru, ("z", "n"), 2, 0b11, recurrent="none"),
    "slstm": Written(slstm, ("i", "f", "z", "o"), 4, states=("h", "c", "n", "m")),
    "six_gates": Written(six_gates, 6, 6),
    "three_states": Written(three_states, ("f", "i", "g", "o"), 4, states=("h", "c", "p")),
    "soft": Written(soft, ("s", "t"), 2),
    "scaled": Written(scaled, ("a",), 1, weights=("gain", "bias", "unused")),
    "sru": Written(
        sru, ("f", "r", "w", "skip"), 4, 0b1111, states=("c",), recurrent="none", weights=("v_f", "v_r"), output="y"
    ),
    "highway": Written(highway, ("t", "a"), 3, reads_input=True),
    "leftovers": Written(leftovers, ("a", "b", "unused"), 1, 0b11, states=("h", "c")),
}

# Of up to three values a, b and c, by operation.
FUNCTIONS = {
    "add": lambda a, b, c: a + b,
    "sub": lambda a, b, c: 1.5 - torch.sub(a, b, alpha=2),
    "mul": lambda a, b, c: a * b * 3,
    "div": lambda a, b, c: a / b + 2 / a,
    "neg": lambda a, b, c: -a,
    "square": lambda a, b, c: torch.square(a),
    "reciprocal": lambda a, b, c: a.reciprocal(),
    "sqrt": lambda a, b, c: torch.sqrt(a),
    "rsqrt": lambda a, b, c: torch.rsqrt(a),
    "abs": lambda a, b, c: abs(a),
    "exp": lambda a, b, c: torch.exp(a),
    "expm1": lambda a, b, c: torch.special.expm1(a),
    "log1p": lambda a, b, c: a.log1p(),
    "log": lambda a, b, c: torch.log(a),
    "pow": lambda a, b, c: a**2,
    "sigmoid": lambda a, b, c: torch.special.expit(a),
    "logsigmoid": lambda a, b, c: F.logsigmoid(a),
    "tanh": lambda a, b, c: F.tanh(a),
    "relu": lambda a, b, c: F.relu(a),
    "leaky_relu": lambda a, b, c: F.leaky_relu(a, 0.2),
    "elu": lambda a, b, c: F.elu(a, alpha=1.5),
    "softplus": lambda a, b, c: F.softplus(a),
    "silu": lambda a, b, c: F.silu(a),
    "gelu": lambda a, b, c: F.gelu(a, approximate="tanh"),
    "hardsigmoid": lambda a, b, c: F.hardsigmoid(a),
    "clamp": lambda a, b, c: torch.clamp(a, -1, 3),
    "minimum": lambda a, b, c: torch.minimum(a, b),
    "maximum": lambda a, b, c: torch.maximum(a, b),
    "where": lambda a, b, c: torch.where(a > 0.5, b, c),
    "lt": lambda a, b, c: torch.where(a < b, a, c),
    "le": lambda a, b, c: torch.where(a <= 0, 2.0, a),
    "gt": lambda a, b, c: torch.where(torch.gt(a, 1), a, 0.0),
    "ge": lambda a, b, c: torch.where(a >= b, a, c),
    "eq": lambda a, b, c: torch.where(a == b, a, c),
    "ne": lambda a, b, c: torch.where(a.ne(b), a, c),
    "detach": lambda a, b, c: a.detach() * a,
}
# And with other numbers.
MORE_FUNCTIONS = {
    **{f"pow {e}": lambda a, b, c, e=e: torch.pow(a, e) for e in (-2, -1, -0.5, 0, 0.5, 1, 1.7, 3, 4)},
    "leaky_relu -0.5": lambda a, b, c: F.leaky_relu(a, -0.5),
    "leaky_relu 0": lambda a, b, c: F.leaky_relu(a, 0.0),
    "softplus 2 5": lambda a, b, c: F.softplus(a, 2, 5),
    "clamp min": lambda a, b, c: a.clamp(min=-1),
    "clamp max": lambda a, b, c: torch.clamp_max(a, 3),
}
