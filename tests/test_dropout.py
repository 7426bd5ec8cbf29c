"""Dropout between layers obeys torch's generator, as torch.nn's does."""

import pytest
import torch
from cases import LAYERS, Case, call, make_leaves, outputs_and_gradients, pair, randn
from primals import assert_close_trees
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import fastrnn

pytestmark = pytest.mark.thorough

by_layer = pytest.mark.parametrize("layer", LAYERS)
by_form = pytest.mark.parametrize("form", ("padded", "batch_first", "unbatched", "packed", "lengths"))

LENGTHS = torch.tensor([2, 4, 1])


def build(layer, form="padded", p=0.5):
    return getattr(fastrnn, layer)(
        3, 5, 3, dropout=p, bidirectional=True, batch_first=form == "batch_first", dtype=torch.float64
    )


def run(module, form, value):
    if form == "packed":
        return module(pack_padded_sequence(value, LENGTHS, enforce_sorted=False))[0].data
    if form == "lengths":
        return module(value, lengths=LENGTHS)[0]
    return module(value)[0]


def value_of(form):
    shapes = {"batch_first": (3, 4, 3), "unbatched": (4, 3)}
    return randn(*shapes.get(form, (4, 3, 3)), dtype=torch.float64)


def seeded(function, *arguments, seed=5):
    torch.manual_seed(seed)
    return function(*arguments)


@by_layer
@by_form
def test_reproducible_under_manual_seed(layer, form):
    module, value = build(layer, form), value_of(form)
    first = seeded(run, module, form, value)
    assert torch.equal(first, seeded(run, module, form, value))
    assert not torch.allclose(first, run(module, form, value)), "a second call must draw anew"
    assert not torch.allclose(first, seeded(run, module, form, value, seed=6))


@by_layer
@by_form
def test_recorded_or_not(layer, form):
    """The mask depends on the generator alone, not on whether a gradient is recorded."""
    module, value = build(layer, form), value_of(form)
    with torch.no_grad():
        unrecorded = seeded(run, module, form, value)
    assert torch.equal(unrecorded, seeded(run, module, form, value))


@by_layer
@by_form
def test_off_in_eval_mode(layer, form):
    module, value = build(layer, form).eval(), value_of(form)
    plain = build(layer, form, p=0.0)
    plain.load_state_dict(module.state_dict())
    state = torch.get_rng_state()
    assert torch.equal(run(module, form, value), run(plain, form, value))
    assert torch.equal(torch.get_rng_state(), state), "eval mode must draw nothing"


@by_layer
@pytest.mark.parametrize("steps", (1, 3))
def test_stream_is_torchs_own(layer, steps):
    """Over several calls: torch.nn and fastrnn take the same draws, so a training run can change over midway."""
    case = Case(layer, {"num_layers": 3, "dropout": 0.4}, seq=5, batch=4)
    leaves, ends = make_leaves(case, torch.float64), []
    results = []
    for module in pair(case, torch.float64):
        torch.manual_seed(11)
        results.append([outputs_and_gradients(module, leaves, call) for _ in range(steps)])
        ends.append(torch.get_rng_state())
    assert_close_trees(results[1], results[0])
    assert torch.equal(*ends)


@by_layer
@by_form
@pytest.mark.parametrize("use_reentrant", (True, False))
def test_checkpoint(layer, form, use_reentrant):
    """The forward that backward repeats draws the mask of the first: the gradients are those without a checkpoint."""
    module, results = build(layer, form), []
    for wrap in (False, True):
        value = results[0][0] if results else value_of(form)
        leaf = value.clone().requires_grad_()
        torch.manual_seed(7)
        if wrap:
            output = checkpoint(run, module, form, leaf, use_reentrant=use_reentrant)
        else:
            output = run(module, form, leaf)
        torch.rand(3)  # whoever else draws between forward and backward
        module.zero_grad()
        output.square().sum().backward()
        results.append((value, output.detach(), leaf.grad, [w.grad.clone() for w in module.parameters()]))
    assert all(map(torch.equal, results[0][:3], results[1][:3]))
    assert all(map(torch.equal, results[0][3], results[1][3]))


@by_layer
def test_forked_generator(layer):
    """torch.random.fork_rng leaves the outer stream as it was."""
    module, value = build(layer), value_of("padded")
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with torch.random.fork_rng():
        module(value)
    assert torch.equal(torch.rand(2), expected)


@by_layer
def test_second_derivative_keeps_the_mask(layer):
    """The mask is drawn once, however often the result is differentiated: torch.nn has the same numbers."""
    case = Case(layer, {"num_layers": 2, "dropout": 0.5})
    leaves, results = make_leaves(case, torch.float64), []
    for module in pair(case, torch.float64):
        torch.manual_seed(3)
        wanted = [leaves["input"].clone().requires_grad_(), *module.parameters()]
        first = torch.autograd.grad(module(wanted[0])[0].sin().sum(), wanted, create_graph=True)
        results.append((first, torch.autograd.grad(sum(g.square().sum() for g in first), wanted)))
    assert_close_trees(results[1], results[0])
