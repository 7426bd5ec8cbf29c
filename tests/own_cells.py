"""Layers of one's own as readers of the docs write them, and the two things that their kernels are held against.

One is the formula, which a layer runs where it has no kernels. The other is a loop over the function itself, as it was
before ``fastrnn.cell`` traced it.
"""

import contextlib
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fastrnn
from fastrnn._ops.cells import CELLS as FACTS

FUNCTIONS = {}  # by class, the function


def cell(**declared):
    """``fastrnn.cell``, which keeps the function, too."""

    def decorate(function):
        made = fastrnn.cell(**declared)(function)
        FUNCTIONS[made] = function
        return made

    return decorate


@cell(gates=("i", "f", "g", "o"), states=("h", "c"))
def LSTM(x, r, h, c):
    """The LSTM of torch.nn."""
    i, f, o = torch.sigmoid(x.i + r.i), torch.sigmoid(x.f + r.f), torch.sigmoid(x.o + r.o)
    c = f * c + i * torch.tanh(x.g + r.g)
    return o * torch.tanh(c), c


@cell(gates=("r", "z", "n"))
def GRU(x, r, h):
    reset, z = torch.sigmoid(x.r + r.r), torch.sigmoid(x.z + r.z)
    n = torch.tanh(x.n + reset * r.n)
    return (1 - z) * n + z * h


@cell(gates=("i", "f", "g", "o"), states=("h", "c"), weights=("w_i", "w_f", "w_o"))
def Peephole(x, r, h, c, w_i, w_f, w_o):
    i = torch.sigmoid(x.i + r.i + w_i * c)
    f = torch.sigmoid(x.f + r.f + w_f * c)
    c = f * c + i * torch.tanh(x.g + r.g)
    return torch.sigmoid(x.o + r.o + w_o * c) * torch.tanh(c), c


@cell(gates=("z", "a"))
def LiGRU(x, r, h):
    z = torch.sigmoid(x.z + r.z)
    return z * h + (1 - z) * torch.relu(x.a + r.a)


@cell(gates=1, recurrent="diagonal")
def IndRNN(x, r, h):
    return torch.relu(x[0] + r[0])


@cell(gates=("z", "a"), recurrent="diagonal", weights=("gain",), input=True)
def IndGRU(inp, x, r, h, gain):
    z = torch.sigmoid(x.z + r.z)
    return z * h + (1 - z) * torch.tanh(gain * x.a + r.a) + 0.1 * inp


@cell(gates=("f", "n"))
def MGU(x, r, h):
    """Minimal gated unit; the gate after the product."""
    f = torch.sigmoid(x.f + r.f)
    return (1 - f) * h + f * torch.tanh(x.n + f * r.n)


@cell(gates=("f", "g"))
def JANET(x, r, h):
    s = x.f + r.f
    return torch.sigmoid(s) * h + (1 - torch.sigmoid(s - 1)) * torch.tanh(x.g + r.g)


@cell(gates=("z", "a"), recurrent="none")
def MinGRU(x, h):
    z = torch.sigmoid(x.z)
    return (1 - z) * h + z * torch.tanh(x.a)


@cell(gates=6)
def SixGates(x, r, h):
    a, b, c, d, e, f = (of_x + of_r for of_x, of_r in zip(x, r, strict=True))
    mixed = F.silu(b) * torch.tanh(c) + F.gelu(d, approximate="tanh") * torch.sigmoid(e)
    return 0.5 * torch.sigmoid(a) * h + 0.3 * mixed - 0.1 * torch.tanh(f)


@cell(gates=("f", "i", "g", "o"), states=("h", "c", "p"))
def ThreeStates(x, r, h, c, p):
    f, i = torch.sigmoid(x.f + r.f), torch.sigmoid(x.i + r.i)
    c, p = f * c + i * torch.tanh(x.g + r.g), 0.9 * p + 0.1 * c
    return torch.sigmoid(x.o + r.o) * torch.tanh(c) - 0.1 * p, c, p


@cell(gates=("s", "t"))
def Soft(x, r, h):
    s = x.s + r.s
    return torch.where(s > 0, F.softplus(s), 0.5 * F.elu(s) + 0.7) / (1 + abs(h)) - torch.sigmoid(x.t + r.t)


@cell(gates=("a",), weights={"gain": torch.nn.init.ones_, "shift": torch.nn.init.zeros_})
def PerUnit(x, r, h, *, gain, shift):
    return torch.tanh(gain * (x.a + r.a) + shift) + 0.3 * h


@cell(gates=("i", "f", "g"), states=("h", "c"), output="y")
def Readout(x, r, h, c):
    c = torch.sigmoid(x.f + r.f) * c + torch.sigmoid(x.i + r.i) * torch.tanh(x.g + r.g)
    return torch.exp(-c * c), torch.tanh(c), c


@cell(gates=("t", "a"), input=True)
def Highway(inp, x, r, h):
    t = torch.sigmoid(x.t + r.t)
    return t * torch.tanh(x.a + r.a) + (1 - t) * inp


@cell(gates=("f", "r", "v"), states=("c",), recurrent="none", weights=("v_f", "v_r"), input=True, output="y")
def SRU(inp, x, c, v_f, v_r):
    f, r = torch.sigmoid(x.f + v_f * c), torch.sigmoid(x.r + v_r * c)
    c = f * c + (1 - f) * x.v
    return r * c + (1 - r) * inp, c


CELLS = (
    LSTM, GRU, Peephole, LiGRU, IndRNN, IndGRU, MGU, JANET, MinGRU, SixGates, ThreeStates, Soft, PerUnit, Readout,
    Highway, SRU,
)  # fmt: skip
KINKED = (LiGRU, IndRNN, Soft)  # whose gradients jump, so that two right results in f32 may differ
# One of each kind of layer; make test compiles no others.
QUICK = (LSTM, GRU, IndRNN, PerUnit, Readout, Highway)


def params(cells):
    return [pytest.param(kind, id=kind.__name__, marks=() if kind in QUICK else pytest.mark.thorough) for kind in cells]


by_cell = pytest.mark.parametrize("kind", params(CELLS))
by_quick_cell = pytest.mark.parametrize("kind", params(QUICK))


@contextlib.contextmanager
def formula(kind):
    """In which the cell has no kernels."""
    facts = FACTS[kind._own.key]
    FACTS[kind._own.key] = facts._replace(load=lambda device, dtype: "there are none")
    try:
        yield
    finally:
        FACTS[kind._own.key] = facts


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def states_of(layer, *batch):
    """A drawn hx, as the layer takes it."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    states = tuple([randn(rows, *batch, layer.hidden_size) for _ in layer._own.graph.states])
    return states if len(states) > 1 else states[0]


def on_states(function, hx):
    """The function of each state of an hx."""
    return tuple(map(function, hx)) if isinstance(hx, tuple) else function(hx)


def tensors(tree):
    """The tensors of what a layer is given or returns, one behind the other."""
    if isinstance(tree, torch.Tensor):
        return [tree.values() if tree.is_nested else tree]
    if isinstance(tree, torch.nn.utils.rnn.PackedSequence):
        return [tree.data]
    return [tensor for branch in tree for tensor in tensors(branch)]


def evaluated(layer, value, hx, **given):
    """All that a call returns, with and without gradients, and the gradients of all that it was given."""
    leaves = [leaf for tree in (value, hx, given.get("reset_state", ())) for leaf in tensors(tree)]
    wanted = [leaf.requires_grad_() for leaf in leaves if not leaf._is_view()] + list(layer.parameters())
    draw = torch.get_rng_state()
    results = tensors(layer(value, hx, **given))
    torch.set_rng_state(draw)
    with torch.no_grad():
        inferred = tensors(layer(value, hx, **given))
    generator = torch.Generator().manual_seed(0)
    upstream = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r) for r in results]
    gradients = torch.autograd.grad(results, wanted, upstream, allow_unused=True, materialize_grads=True)
    return [*results, *inferred, *gradients]


def looped(layer, value, hx):
    """Outputs and last states of a layer of one direction, by the function, step by step."""
    own, size = layer._own.graph, layer.hidden_size
    named = own.gates if not own.gates[0].isdigit() else [f"gate{gate}" for gate in own.gates]
    gates = namedtuple("gates", named)
    states = hx if isinstance(hx, tuple) else (hx,)
    finals = []
    for k in range(layer.num_layers):
        weights = {name: getattr(layer, f"{name}_l{k}") for name in (*own.weights, "weight_ih")}
        w_ih = weights.pop("weight_ih")
        w_hh, b_ih, b_hh = (getattr(layer, f"{name}_l{k}", None) for name in ("weight_hh", "bias_ih", "bias_hh"))
        rows = len(own.gates) * size
        state, outputs = [one[k] for one in states], []
        for x in value:
            arguments = [*([x if len(w_ih) == rows else F.linear(x, w_ih[rows:])] if own.reads_input else [])]
            arguments.append(gates(*F.linear(x, w_ih[:rows], b_ih).chunk(len(own.gates), -1)))
            if own.recurrent == "dense":
                arguments.append(gates(*F.linear(state[0], w_hh, b_hh).chunk(len(own.gates), -1)))
            elif own.recurrent == "diagonal":
                arguments.append(gates(*[row * state[0] for row in w_hh]))
            results = FUNCTIONS[type(layer)](*arguments, *state, **weights)
            results = list(results) if isinstance(results, tuple) else [results]
            outputs.append(results[0])
            state = results[own.output is not None :]
        value = torch.stack(outputs)
        finals.append(state)
    after = tuple(map(torch.stack, zip(*finals, strict=True)))
    return value, after if len(after) > 1 else after[0]


def run_python(code, folder, **env):
    """In a process of its own."""
    path = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done
