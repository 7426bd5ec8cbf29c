"""f32 error against f64: no larger than 1.5 times torch.nn's own, plus 4 ulp of the tensor's scale.

Parity alone would let our kernels lose a digit within its tolerance; this pools 20 draws of each case, so that a lost
digit, a poor tanh or a sum in the wrong precision shows.
"""

from collections import defaultdict

import pytest
import torch
from cases import DTYPES, KERNELS, Case, call, make_leaves, outputs_and_gradients

import fastrnn

SEEDS = 20
FACTOR = 1.5
FLOOR_ULP = 4

# (seq, batch, input_size, hidden_size): short and long, one row and many, sums short and long.
SHAPES = ((3, 4, 8, 16), (20, 3, 10, 33), (60, 1, 5, 24), (5, 17, 40, 100), (2, 2, 300, 7))

# Of the input weights: as drawn by reset_parameters; and large, where gates saturate and 1 - tanh^2 cancels. The
# recurrent weights stay as they are: scaled up they make a chaotic network, in which chance decides whose error grows.
GAINS = (1.0, 6.0)


def case_of(kernel, shape):
    layer, options = KERNELS[kernel]
    options = options | {"bidirectional": True}
    seq, batch, input_size, hidden_size = shape
    return Case(layer, options, seq=seq, batch=batch, input_size=input_size, hidden_size=hidden_size)


def away_from_the_jump_(module):
    """Biases that hold every relu unit firmly on or off.

    An f32 result that falls on the other side of relu's jump has quite another gradient, for torch.nn as for us: one
    such element in 20 draws would be the whole error.
    """
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("bias_ih"):
                weight.copy_(8.0 * (2 * torch.randint(0, 2, weight.shape) - 1))
            elif name.startswith("weight"):
                # Small enough that what arrives from other units, themselves around 8, cannot outweigh the bias.
                weight.mul_(0.1)


def three_results(case, gain):
    """The same call in f64 by torch.nn, in f32 by torch.nn, and in f32 by fastrnn."""
    theirs = case.build(torch.float32)
    if case.relu:
        away_from_the_jump_(theirs)
    else:
        with torch.no_grad():
            for name, weight in theirs.named_parameters():
                if name.startswith("weight_ih"):
                    weight.mul_(gain)
    exact, ours = case.build(torch.float64), case.build(torch.float32, fastrnn)
    exact.load_state_dict(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    leaves = make_leaves(case, torch.float32)
    exact_leaves = {name: leaf.double() for name, leaf in leaves.items()}
    return (
        outputs_and_gradients(exact, exact_leaves, call, upstream_seed=1),
        outputs_and_gradients(theirs, leaves, call, upstream_seed=1),
        outputs_and_gradients(ours, leaves, call, upstream_seed=1),
    )


@pytest.mark.isa
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_error_against_f64(kernel, shape, gain):
    case = case_of(kernel, shape)
    squares = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    for _ in range(SEEDS):
        exact, theirs, ours = three_results(case, gain)
        for name, reference in exact.items():
            squares[name] += torch.stack(
                [reference.square().sum(), *((r[name].double() - reference).square().sum() for r in (theirs, ours))]
            )
    ulp = torch.finfo(torch.float32).eps
    failures = []
    for name, sums in squares.items():
        # All three are sums over the same elements, so their ratios are those of the means.
        scale, theirs, ours = sums.sqrt().tolist()
        allowed = FACTOR * theirs + FLOOR_ULP * ulp * scale
        if not ours <= allowed:
            failures.append(f"{name}: {ours / scale / ulp:.2f} ulp of scale, torch.nn {theirs / scale / ulp:.2f}")
    assert not failures, "\n".join(failures)


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
