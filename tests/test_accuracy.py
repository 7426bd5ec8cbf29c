"""f32 error against f64: no larger than 1.5 times torch.nn's own, plus 2 ulp of the tensor's scale.

Parity alone would let our kernels lose a digit within its tolerance; here a lost digit, a poor tanh or a sum in the
wrong order shows. Errors are heavy-tailed, above all where gates saturate: in one draw of many a few elements hold
most of a tensor's squared error, so sums over draws are chance. What is counted is the draws in which ours is larger
than allowed, each draw by itself, whose chance is known exactly.
"""

import contextlib
from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, KERNELS, Case, away_from_the_jump_, call, make_leaves, outputs_and_gradients
from chance import critical_count
from torch.overrides import TorchFunctionMode

import fastrnn
from fastrnn import reference

FACTOR = 1.5
FLOOR_ULP = 2


class Shape(NamedTuple):
    """Sizes, and in how many draws the errors are compared."""

    seq: int
    batch: int
    input_size: int
    hidden_size: int
    draws: int = 21
    # In this share of the draws, at most, right kernels exceed what is allowed. Of 100 draws of every kernel, gain and
    # instruction set, on an AMD with AVX-512 (Zen 4), the largest share of any tensor was 0.03; of the two shapes with
    # shares of their own 0.30 (SSE2, in 300 draws), and 0.14.
    share: float = 0.05

    def __str__(self):
        return "x".join(map(str, self[:4]))


# Short and long, one row and many, sums short and long. Of the last two the first has long sums over the input and
# few elements, whose errors vary most, the second long sums over rows, and results narrower than a GEMM likes.
SHAPES = (
    Shape(3, 4, 8, 16),
    Shape(20, 3, 10, 33),
    Shape(60, 1, 5, 24),
    Shape(5, 17, 40, 100),
    Shape(2, 2, 300, 7, draws=121, share=0.3),
    Shape(2, 5000, 1, 4, draws=31, share=0.2),
)

# Of the input weights: as drawn by reset_parameters; and large, where gates saturate and 1 - tanh^2 cancels. The
# recurrent weights stay as they are: scaled up they make a chaotic network, in which chance decides whose error grows.
GAINS = (1.0, 6.0)
# So many inputs of so few units saturate the gates as they are. Scaled up, nearly every tanh is 1, and the few that are
# not decide whose error is larger: ours was, by more than is allowed, in 0.48 of the draws of right kernels.
SATURATING = 300


def case_of(kernel, shape):
    layer, options = KERNELS[kernel]
    options = options | {"bidirectional": True}
    seq, batch, input_size, hidden_size = shape[:4]
    return Case(layer, options, seq=seq, batch=batch, input_size=input_size, hidden_size=hidden_size)


def three_results(case, gain, ours):
    """The same call in f64 by torch.nn, in f32 by torch.nn, and in f32 by ours(case, torch.nn's layer, leaves)."""
    theirs = case.build(torch.float32)
    if case.relu:
        away_from_the_jump_(theirs)
    else:
        with torch.no_grad():
            for name, weight in theirs.named_parameters():
                if name.startswith("weight_ih"):
                    weight.mul_(gain)
    exact = case.build(torch.float64)
    exact.load_state_dict(theirs.state_dict())
    leaves = make_leaves(case, torch.float32)
    exact_leaves = {name: leaf.double() for name, leaf in leaves.items()}
    return (
        outputs_and_gradients(exact, exact_leaves, call),
        outputs_and_gradients(theirs, leaves, call),
        ours(case, theirs, leaves),
    )


def fused(case, theirs, leaves):
    """By fastrnn."""
    module = case.build(torch.float32, fastrnn)
    module.load_state_dict(theirs.state_dict())
    return outputs_and_gradients(module, leaves, call)


def share_of_allowed(exact, theirs, ours):
    """A tensor's RMS error in ours, as a share of what is allowed."""
    # Sums over the same elements have the ratios of means.
    scale, their_error, our_error = (
        value.square().sum().sqrt().item() for value in (exact, theirs.double() - exact, ours.double() - exact)
    )
    allowed = FACTOR * their_error + FLOOR_ULP * torch.finfo(torch.float32).eps * scale
    if allowed == 0:
        return 2.0 if our_error > 0 else 0.0
    return our_error / allowed


def draws_exceeding(kernel, shape, gain, ours):
    """By tensor, in how many draws its error was larger than allowed."""
    case = case_of(kernel, shape)
    counts = Counter()
    for _ in range(shape.draws):
        exact, theirs, actual = three_results(case, gain, ours)
        for name, values in exact.items():
            share = share_of_allowed(values, theirs[name], actual[name])
            counts[name] += not share <= 1  # NaN, too
    return counts


def too_many(kernel, shape, gain, ours):
    """The tensors whose errors exceed what is allowed more often than chance can explain."""
    critical = critical_count(shape.draws, shape.share)
    return {name: n for name, n in draws_exceeding(kernel, shape, gain, ours).items() if n >= critical}


CASES = [
    pytest.param(kernel, shape, gain, marks=pytest.mark.thorough if shape in SHAPES[2:] else ())
    for kernel in KERNELS
    for shape in SHAPES
    for gain in GAINS
    if gain == 1 or (kernel != "rnn_relu" and shape.input_size < SATURATING)  # relu has weights of its own
]


@pytest.mark.isa
@pytest.mark.parametrize(("kernel", "shape", "gain"), CASES, ids=str)
def test_error_against_f64(kernel, shape, gain):
    found = too_many(kernel, shape, gain, fused)
    assert not found, f"larger than allowed in so many of {shape.draws} draws: {found}"


class Planted(TorchFunctionMode):
    """While it lasts, torch's functions are right but for rounding: what replaces one takes its arguments."""

    def __init__(self, replaced, instead):
        super().__init__()
        self._replaced, self._instead = replaced, instead

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (self._instead if function is self._replaced else function)(*args, **(kwargs or {}))


def inexact_tanh(x):
    return x.tanh() * (1 + 1e-6)


def inexact_sigmoid(x):
    return x.sigmoid() * (1 - 1e-6)


class SummedInTurn(torch.autograd.Function):
    """F.linear, whose weight's gradient adds up row by row in f32: the order in which a long sum loses most."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        rows, grads = x.flatten(0, -2), grad.flatten(0, -2)
        products = (grads[:, :, None] * rows[:, None, :]).numpy()
        return grad @ weight, torch.from_numpy(np.cumsum(products, axis=0)[-1]), grads.sum(0)


def rounded(gate, gates, bits):
    """F.linear, of which one gate has so many of f32's 24 bits."""

    def linear(x, weight, bias):
        parts = list(F.linear(x, weight, bias).chunk(gates, -1))
        value = parts[gate].detach()
        far = value * (2 ** (24 - bits) + 1)
        parts[gate] = parts[gate] + (far - (far - value) - value)
        return torch.cat(parts, -1)

    return linear


# Wide enough for torch's own sums over rows to be exact, which of the last of SHAPES they are not.
WIDE = Shape(2, 5000, 16, 16, draws=9)

FAULTS = {
    "tanh": ("rnn_tanh", SHAPES[0], torch.tanh, inexact_tanh),
    "tanh of c": ("lstm", SHAPES[1], torch.tanh, inexact_tanh),
    "sigmoid": ("gru", SHAPES[1], torch.sigmoid, inexact_sigmoid),
    "order of a sum": ("lstm", WIDE, F.linear, SummedInTurn.apply),
    "a digit of the LSTM's o": ("lstm", SHAPES[0], F.linear, rounded(3, 4, bits=17)),
    "a digit of the GRU's n": ("gru", SHAPES[3], F.linear, rounded(2, 3, bits=18)),
}


def by_reference(planted):
    """Ours, in the place of fastrnn's kernels: the reference's equations in f32 torch ops."""

    def results(case, theirs, leaves):
        cell = {"RNN": "rnn_tanh", "LSTM": "lstm", "GRU": "gru"}[case.layer]

        def run(module, leaves):
            input, *states = leaves.values()
            output, *finals = reference.layers(cell, input, states, tuple(module.parameters()), bidirectional=True)
            return output, tuple(finals) if len(finals) > 1 else finals[0]

        with planted:
            return outputs_and_gradients(theirs, leaves, run)

    return results


@pytest.mark.thorough
@pytest.mark.parametrize("kernel", ("rnn_tanh", "lstm", "gru"))
def test_the_reference_is_as_exact(kernel):
    """So that what the faults show is the fault."""
    for shape in (*SHAPES[:-1], WIDE):
        assert not too_many(kernel, shape, GAINS[0], by_reference(contextlib.nullcontext()))


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    kernel, shape, replaced, instead = FAULTS[fault]
    assert too_many(kernel, shape, GAINS[0], by_reference(Planted(replaced, instead)))


def hard_arguments(dtype):
    """Around 0, where relative precision is at stake; far out, where e^x over- and underflows; and all between."""
    edge = {torch.float32: 88.7, torch.float64: 709.8}[dtype]
    near = torch.cat([torch.linspace(center - 1, center + 1, 4001) for center in (edge, edge / 2)])
    positive = torch.cat([torch.logspace(-37, 4, 8001), torch.linspace(0, 30, 4001), near])
    return torch.cat([positive, -positive]).to(dtype)


def assert_few_ulp(actual, exact, dtype):
    # Below the smallest normal number there is no relative precision to keep.
    limits = torch.finfo(dtype)
    allowed = 4 * limits.eps * exact.abs() + limits.tiny
    wrong = ~((actual.double() - exact).abs() <= allowed)
    assert not wrong.any(), f"{int(wrong.sum())} of {len(exact)}, such as {actual[wrong][:3]} for {exact[wrong][:3]}"


@pytest.mark.isa
@pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
def test_tanh(dtype):
    """By an Elman layer of one unit that hands its input to tanh."""
    values = hard_arguments(dtype)
    layer = fastrnn.RNN(1, 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.fill_(1)
        layer.weight_hh_l0.fill_(0)
        output = layer(values.reshape(1, -1, 1))[0].flatten()
    assert_few_ulp(output, values.double().tanh(), dtype)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
def test_sigmoid(dtype):
    """By a GRU of one unit with h = 1, n = 0 and so h' = z = sigmoid(input)."""
    values = hard_arguments(dtype)
    layer = fastrnn.GRU(1, 1, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor([[0.0], [1.0], [0.0]]))
        layer.weight_hh_l0.fill_(0)
        output = layer(values.reshape(1, -1, 1), torch.ones(1, len(values), 1, dtype=dtype))[0].flatten()
    assert_few_ulp(output, values.double().sigmoid(), dtype)
