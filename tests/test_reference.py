"""The oracle equals torch.nn, and autograd.run equals the oracle on dense, packed and padded input."""

import pytest
import torch
from cases import KERNELS, Case, assert_same, case_tolerance, make_leaves
from torch.nn.utils.rnn import pack_padded_sequence

from fastrnn import reference
from fastrnn._ops import autograd

CELL_NAMES = {"lstm_proj": "lstm"}
FORMS = ("dense", "packed", "padded")

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
both_ways = pytest.mark.parametrize("bidirectional", (False, True))
by_layers = pytest.mark.parametrize("layers", (1, 3))


def layer_arguments(kernel, bidirectional, form, hidden=9, batch=7, dtype=torch.float64, layers=1):
    """A module of torch.nn, and what autograd.run takes for the same call."""
    layer, options = KERNELS[kernel]
    options = options | {"bidirectional": bidirectional, "num_layers": layers}
    case = Case(layer, options, "packed", seq=5, batch=batch, input_size=4, hidden_size=hidden)
    module = case.build(dtype)
    leaves = make_leaves(case, dtype)
    states = [leaves["hx"], leaves["cx"]] if layer == "LSTM" else [leaves["hx"]]
    value, batch_sizes = leaves["input"], None
    if form != "dense":
        packed = pack_padded_sequence(value, case.lengths)
        batch_sizes = packed.batch_sizes
        if form == "packed":
            value = packed.data
    return case, module, value, states, list(module.parameters()), batch_sizes


def run(function, kernel, value, states, weights, bidirectional, batch_sizes):
    """Results and every gradient of a call's layers."""
    cell = CELL_NAMES.get(kernel, kernel)
    leaves = [t.detach().clone().requires_grad_() for t in (value, *states, *weights)]
    count = 1 + len(states)
    results = function(cell, leaves[0], tuple(leaves[1:count]), leaves[count:], bidirectional, batch_sizes)
    generator = torch.Generator().manual_seed(0)
    upstream = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    gradients = torch.autograd.grad(results, leaves, upstream)
    return {f"result {i}": r.detach() for i, r in enumerate(results)} | {
        f"gradient {i}": g for i, g in enumerate(gradients)
    }


@by_kernel
@both_ways
@by_layers
@pytest.mark.parametrize("form", ("dense", "packed"))
def test_reference_equals_torch(kernel, bidirectional, layers, form):
    case, module, value, states, weights, batch_sizes = layer_arguments(kernel, bidirectional, form, layers=layers)
    hx = tuple(states) if len(states) == 2 else states[0]
    if form == "packed":
        expected = module(torch.nn.utils.rnn.PackedSequence(value, batch_sizes), hx)
        output = expected[0].data
    else:
        expected = module(value, hx)
        output = expected[0]
    finals = expected[1] if isinstance(expected[1], tuple) else expected[1:]
    actual = reference.layers(CELL_NAMES.get(kernel, kernel), value, tuple(states), weights, bidirectional, batch_sizes)
    named = [dict(enumerate(t.detach() for t in tensors)) for tensors in ((output, *finals), actual)]
    assert_same(*named, case_tolerance(case, torch.float64))


@pytest.mark.isa
@by_kernel
@both_ways
@by_layers
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hidden", (3, 9, 33))
def test_run_equals_reference(kernel, bidirectional, layers, form, hidden):
    case, _, *arguments, batch_sizes = layer_arguments(kernel, bidirectional, form, hidden, layers=layers)
    arguments = (*arguments, bidirectional, batch_sizes)
    expected = run(reference.layers, kernel, *arguments)
    actual = run(autograd.run, kernel, *arguments)
    assert_same(expected, actual, case_tolerance(case, torch.float64))


@by_kernel
@both_ways
@by_layers
def test_padding_is_zero_and_takes_no_part(kernel, bidirectional, layers):
    """In a padded batch: whatever number stands in the padding changes nothing, its output and gradient are zero."""
    _, _, value, states, weights, batch_sizes = layer_arguments(kernel, bidirectional, "padded", layers=layers)
    batch_sizes = torch.tensor([7, 6, 4, 4, 1])
    padding = torch.arange(7) >= batch_sizes[:, None]
    results = []
    for fill in (0.0, 1e30):
        value = value.masked_fill(padding[..., None], fill)
        results.append(run(autograd.run, kernel, value, states, weights, bidirectional, batch_sizes))
    clean, dirty = results
    for name in clean:
        assert torch.equal(clean[name], dirty[name]), f"{name} depends on the padding"
    assert (clean["result 0"][padding] == 0).all()
    assert (clean["gradient 0"][padding] == 0).all()


@by_kernel
@both_ways
@by_layers
def test_rows_that_never_run_keep_their_state(kernel, bidirectional, layers):
    """batch_sizes may start below B: sequences of length 0, whose final state is the initial one."""
    _, _, value, states, weights, _ = layer_arguments(kernel, bidirectional, "dense", layers=layers)
    batch_sizes = torch.tensor([5, 5, 3, 1, 1])
    cell = CELL_NAMES.get(kernel, kernel)
    results = autograd.run(cell, value, tuple(states), weights, bidirectional, batch_sizes)
    for initial, final in zip(states, results[1:], strict=True):
        assert torch.equal(initial[:, 5:], final[:, 5:])
    expected = run(reference.layers, kernel, value, states, weights, bidirectional, batch_sizes)
    actual = run(autograd.run, kernel, value, states, weights, bidirectional, batch_sizes)
    assert_same(expected, actual, 1e-12)
