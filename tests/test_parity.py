"""Outputs and every gradient equal torch.nn's over the product of options, and over forms of input."""

import pytest
import torch
from cases import (
    CELLS,
    DTYPES,
    LAYERS,
    Case,
    assert_same,
    call,
    call_product,
    case_tolerance,
    check_parity,
    make_leaves,
    outputs_and_gradients,
    pair,
    randn,
    tolerance,
)
from torch import nn

import fastrnn

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
by_layer = pytest.mark.parametrize("layer", LAYERS)


@pytest.mark.parametrize("case", [c for layer in LAYERS for c in call_product(layer)], ids=str)
@by_dtype
def test_options(case, dtype):
    check_parity(case, dtype)


@by_layer
@by_dtype
@pytest.mark.parametrize("bidirectional", (False, True))
def test_noncontiguous(layer, dtype, bidirectional):
    """Input and states that are every other element of something larger, and transposed."""
    case = Case(layer, {"num_layers": 2, "bidirectional": bidirectional}, seq=5, batch=4, input_size=6, hidden_size=7)
    rows = 4 if bidirectional else 2
    leaves = {"input": randn(6, 4, 10, dtype=dtype), "hx": randn(14, 4, rows, dtype=dtype)}
    if layer == "LSTM":
        leaves["cx"] = randn(14, 4, rows, dtype=dtype)

    def run(module, leaves):
        views = {name: leaf[::2].transpose(0, 2) for name, leaf in leaves.items() if name != "input"}
        views["input"] = leaves["input"][:, :, ::2].transpose(0, 2)
        assert not any(view.is_contiguous() for view in views.values())
        return call(module, views)

    theirs, ours = pair(case, dtype)
    expected = outputs_and_gradients(theirs, leaves, run)
    actual = outputs_and_gradients(ours, leaves, run)
    assert_same(expected, actual, case_tolerance(case, dtype))


@by_layer
@by_dtype
def test_expanded(layer, dtype):
    """One state, and one frame, shared by a whole batch: stride 0, and gradients that sum over it."""
    case = Case(layer, {"num_layers": 2}, seq=3, batch=5)
    leaves = make_leaves(case, dtype)
    leaves = {name: leaf[:, :1].clone() for name, leaf in leaves.items()}

    def run(module, leaves):
        return call(module, {name: leaf.expand(-1, case.batch, -1) for name, leaf in leaves.items()})

    theirs, ours = pair(case, dtype)
    expected = outputs_and_gradients(theirs, leaves, run)
    actual = outputs_and_gradients(ours, leaves, run)
    assert_same(expected, actual, case_tolerance(case, dtype))


@by_dtype
@pytest.mark.parametrize("form", ("list", "same tensor twice", "same tensor twice, list"))
@pytest.mark.parametrize("layout", ("batched", "unbatched", "packed_unsorted"))
def test_lstm_state_forms(dtype, form, layout):
    case = Case("LSTM", {"num_layers": 2}, layout)
    leaves = make_leaves(case, dtype)
    lengths = case.lengths
    if form.startswith("same"):
        del leaves["cx"]

    def run(module, leaves):
        state = (leaves["hx"], leaves.get("cx", leaves["hx"]))
        value = leaves["input"]
        if lengths is not None:
            value = nn.utils.rnn.pack_padded_sequence(value, lengths, enforce_sorted=False)
        return module(value, list(state) if "list" in form else state)

    theirs, ours = pair(case, dtype)
    # torch.nn takes a list only without packing and only on some paths: the tuple is what a list must equal.
    expected = outputs_and_gradients(theirs, leaves, lambda m, v: run(lambda x, s: m(x, tuple(s)), v))
    actual = outputs_and_gradients(ours, leaves, run)
    assert_same(expected, actual, case_tolerance(case, dtype))


@pytest.mark.isa
@by_layer
@by_dtype
@pytest.mark.parametrize("has_hx", (False, True))
@pytest.mark.parametrize("batch_first", (False, True))
def test_batch_of_zero(layer, dtype, has_hx, batch_first):
    # Nothing to compute, but shapes, and gradients of zero for the weights rather than none.
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    check_parity(Case(layer, options, has_hx=has_hx, batch=0), dtype)


@by_layer
@by_dtype
@pytest.mark.parametrize("p", (0.3, 1.0))
@pytest.mark.parametrize("layout", ("batched", "packed", "unbatched"))
@pytest.mark.parametrize("batch_first", (False, True))
def test_dropout_draws_what_torch_draws(layer, dtype, p, layout, batch_first):
    options = {"num_layers": 3, "dropout": p, "bidirectional": True, "batch_first": batch_first}
    case = Case(layer, options, layout)
    theirs, ours = pair(case, dtype)
    leaves, lengths, seed = make_leaves(case, dtype), case.lengths, torch.initial_seed()

    def run(module, leaves):
        torch.manual_seed(seed)
        return call(module, leaves, lengths)

    expected = outputs_and_gradients(theirs, leaves, run)
    after_theirs = torch.rand(())
    actual = outputs_and_gradients(ours, leaves, run)
    assert_same(expected, actual, case_tolerance(case, dtype))
    assert torch.equal(torch.rand(()), after_theirs), "took another number of draws from the generator"
    ours.eval()
    theirs.eval()
    assert_same(
        outputs_and_gradients(theirs, leaves, run),
        outputs_and_gradients(ours, leaves, run),
        case_tolerance(case, dtype),
    )


@pytest.mark.parametrize("cell", CELLS)
@by_dtype
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("batched", (True, False))
@pytest.mark.parametrize("has_hx", (True, False))
@pytest.mark.parametrize("nonlinearity", ("tanh", "relu"))
def test_cells(cell, dtype, bias, batched, has_hx, nonlinearity):
    if cell != "RNNCell" and nonlinearity == "relu":
        nonlinearity = "tanh"  # the same call a second time, with other numbers
    options = {"nonlinearity": nonlinearity} if cell == "RNNCell" else {}
    theirs = getattr(nn, cell)(4, 19, bias=bias, dtype=dtype, **options)
    ours = getattr(fastrnn, cell)(4, 19, bias=bias, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    batch = (3,) if batched else ()
    leaves = {"input": randn(*batch, 4, dtype=dtype)}
    if has_hx:
        leaves["hx"] = randn(*batch, 19, dtype=dtype)
        if cell == "LSTMCell":
            leaves["cx"] = randn(*batch, 19, dtype=dtype)
    expected = outputs_and_gradients(theirs, leaves, call)
    actual = outputs_and_gradients(ours, leaves, call)
    assert_same(expected, actual, tolerance(dtype, depth=1, terms=4 * 19))


@by_layer
def test_some_gradients_only(layer):
    """Frozen weights, and an input without gradient: the rest is as before."""
    case = Case(layer, {"num_layers": 2, "bidirectional": True})
    theirs, ours = pair(case, torch.float64)
    leaves = make_leaves(case, torch.float64)
    for frozen in ("weight_ih_l0", "bias_hh_l1", "weight_hh_l0_reverse"):
        for module in (theirs, ours):
            getattr(module, frozen).requires_grad_(False)
    results = []
    for module in (theirs, ours):
        flat = call(module, leaves)[0]
        flat.sum().backward()
        results.append({name: p.grad for name, p in module.named_parameters()})
    assert_same(*results, case_tolerance(case, torch.float64))


@by_layer
@pytest.mark.parametrize("dropout", (0.0, 0.5))
def test_frozen_layers_below_keep_nothing(layer, dropout):
    """What the one layer that is trained keeps is the same whether or not frozen ones are below it."""
    alone = getattr(fastrnn, layer)(6, 6)
    stack = getattr(fastrnn, layer)(6, 6, 3, dropout=dropout).eval()
    for name, parameter in stack.named_parameters():
        parameter.requires_grad_("l2" in name)
    kept = []
    for module in (alone, stack):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            output = module(torch.randn(7, 2, 6))[0]
        kept.append(sorted(sizes))
        output.sum().backward()
    assert kept[0] == kept[1]
    assert {name for name, parameter in stack.named_parameters() if parameter.grad is not None} == {
        name for name, _ in stack.named_parameters() if "l2" in name
    }


@pytest.mark.isa
@by_layer
def test_only_one_output_used(layer):
    """A loss on the output alone, and on a final state alone: the other upstream gradient is undefined."""
    case = Case(layer, {"num_layers": 2, "bidirectional": True})
    theirs, ours = pair(case, torch.float64)
    leaves = make_leaves(case, torch.float64)
    picks = [lambda r: r[0], lambda r: r[1]]
    if layer == "LSTM":
        picks = [lambda r: r[0], lambda r: r[1][0], lambda r: r[1][1]]
    for pick in picks:
        expected = outputs_and_gradients(theirs, leaves, lambda m, v, pick=pick: pick(call(m, v)))
        actual = outputs_and_gradients(ours, leaves, lambda m, v, pick=pick: pick(call(m, v)))
        assert_same(expected, actual, case_tolerance(case, torch.float64))


@pytest.mark.isa
@by_layer
def test_inference_equals_training(layer):
    """Without grad no reserve is kept, which may take another path: the values are the same."""
    case = Case(layer, {"num_layers": 2, "bidirectional": True}, seq=6, hidden_size=17)
    _, ours = pair(case, torch.float32)
    leaves = make_leaves(case, torch.float32)
    with_grad = call(ours, leaves)[0].detach()
    with torch.no_grad():
        without = call(ours, leaves)[0]
    with torch.inference_mode():
        inference = call(ours, leaves)[0]
    assert torch.equal(with_grad, without)
    assert torch.equal(with_grad, inference)
