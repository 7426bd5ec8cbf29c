"""bfloat16, float16 and autocast: float32 arithmetic, rounded once, and one rule for the dtype of results."""

import pytest
import torch
from cases import CELLS, LAYERS, randn
from chance import critical_count
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

import fastrnn

HALF = (torch.bfloat16, torch.float16)
LENGTHS = torch.tensor([2, 4, 1])

by_half = pytest.mark.parametrize("dtype", HALF, ids=("bf16", "f16"))
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_class = pytest.mark.parametrize("name", (*LAYERS, *CELLS))
by_form = pytest.mark.parametrize("form", ("padded", "unbatched", "packed", "lengths", "hx"))


def build(name, dtype=torch.float32):
    """A stack of two, or a cell, whose weights a half type can hold."""
    options = {"num_layers": 2, "bidirectional": True} if name in LAYERS else {}
    module = getattr(fastrnn, name)(3, 5, **options)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(weight.to(dtype))
    return module


def value_of(name, dtype=torch.float32):
    return randn(*((4,) if name in LAYERS else ()), 3, 3).to(dtype)


def run(module, form, value):
    """Every tensor of the results."""
    if form == "unbatched":
        result = module(value[:, 0])
    elif form == "packed":
        output, finals = module(pack_padded_sequence(value, LENGTHS, enforce_sorted=False))
        result = output.data, finals
    elif form == "lengths":
        result = module(value, lengths=LENGTHS)
    elif form == "hx":
        hx = value.new_ones(4, 3, 5) / 3
        result = module(value, (hx, hx) if isinstance(module, fastrnn.LSTM) else hx)
    else:
        result = module(value)
    return tree_leaves(result)


def assert_rounded_alike(ours, theirs):
    """bfloat16 results of float32 sums in two orders: those in the middle of two numbers may be rounded to either."""
    # float32 differs by less than 2^-12 of what bfloat16 steps by.
    assert (ours != theirs).sum() < critical_count(ours.numel(), 2**-12)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=0)


def gradients(outputs, wanted):
    return torch.autograd.grad(sum(out.float().sin().sum() for out in outputs), wanted)


class TestBfloat16Weights:
    """Inference reads bfloat16 weights as they are."""

    @by_layer
    @by_form
    def test_float32_rounded_once(self, layer, form):
        wide, half = build(layer, torch.bfloat16), build(layer, torch.bfloat16).to(torch.bfloat16)
        half.load_state_dict(wide.state_dict())
        value = value_of(layer, torch.bfloat16)
        with torch.no_grad():
            actual = run(half, form, value)
        for ours, trained in zip(actual, run(half, form, value), strict=True):
            assert ours.dtype == torch.bfloat16
            assert_rounded_alike(ours, trained)  # the way of training, on float32 copies

    @pytest.mark.parametrize("cell", CELLS)
    def test_cells(self, cell):
        half = build(cell, torch.bfloat16).to(torch.bfloat16)
        value = value_of(cell, torch.bfloat16)
        with torch.no_grad():
            actual = tree_leaves(half(value))
        for ours, trained in zip(actual, tree_leaves(half(value)), strict=True):
            assert_rounded_alike(ours, trained)

    @by_layer
    @pytest.mark.parametrize("sizes", [(1, 1, 7, 65), (3, 2, 260, 33), (40, 1, 5, 130), (9, 17, 64, 48)])
    @pytest.mark.parametrize("threads", (1, 2))
    @pytest.mark.parametrize("options", [{}, {"bias": False, "bidirectional": True}, {"proj_size": 9}], ids=str)
    def test_sizes(self, layer, sizes, threads, options):
        """Weights in place and packed, in whole vectors and tails; the input's product in one piece and in several."""
        if "proj_size" in options and layer != "LSTM":
            options = {"num_layers": 2}
        steps, batch, input_size, hidden_size = sizes
        half = getattr(fastrnn, layer)(input_size, hidden_size, **options).to(torch.bfloat16)
        exact = getattr(nn, layer)(input_size, hidden_size, **options, dtype=torch.float64)
        exact.load_state_dict(half.state_dict())
        value = randn(steps, batch, input_size).to(torch.bfloat16)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with torch.no_grad():
            results = tree_leaves(half(value))
            expected = tree_leaves(exact(value.double()))
        torch.set_num_threads(before)
        for ours, reference in zip(results, expected, strict=True):
            rounded = (ours.double() - reference).abs() - 2**-8 * reference.abs()  # which bfloat16 may take and does
            torch.testing.assert_close(rounded.clamp(min=0), torch.zeros_like(reference), rtol=0, atol=1e-5)

    @by_layer
    def test_explain_says_so(self, layer):
        half = getattr(fastrnn, layer)(3, 5).to(torch.bfloat16)
        value = value_of(layer, torch.bfloat16)
        assert fastrnn.explain(half, value).rows[0].precision == "bfloat16 in float32"
        with torch.no_grad():
            assert fastrnn.explain(half, value).rows[0].precision == "float32 on bfloat16 weights"
            assert fastrnn.explain(half.float(), value.float()).rows[0].precision == "float32"

    @by_layer
    def test_compiled(self, layer):
        half = getattr(fastrnn, layer)(3, 5).to(torch.bfloat16)
        value = value_of(layer, torch.bfloat16)
        with torch.no_grad():
            compiled = torch.compile(half, backend="eager", fullgraph=True)
            assert all(map(torch.equal, tree_leaves(compiled(value)), tree_leaves(half(value))))


class TestHalfModules:
    @by_layer
    @by_half
    @by_form
    def test_float32_rounded_once(self, layer, dtype, form):
        """To the bit: the float32 layer's results on the same numbers, rounded at the very end."""
        wide = build(layer, dtype)
        half = build(layer, dtype).to(dtype)
        half.load_state_dict(wide.state_dict())
        value = value_of(layer, dtype)
        expected, actual = run(wide, form, value.float()), run(half, form, value)
        if form == "hx":
            # A third is no bfloat16: the same state must go into both.
            hx = (value.new_ones(4, 3, 5) / 3).float()
            expected = tree_leaves(wide(value.float(), (hx, hx) if layer == "LSTM" else hx))
        for ours, exact in zip(actual, expected, strict=True):
            assert ours.dtype == dtype
            assert torch.equal(ours, exact.to(dtype))

    @pytest.mark.parametrize("cell", CELLS)
    @by_half
    @pytest.mark.parametrize("batched", (True, False))
    def test_cells_round_once(self, cell, dtype, batched):
        wide = build(cell, dtype)
        half = build(cell, dtype).to(dtype)
        half.load_state_dict(wide.state_dict())
        value = value_of(cell, dtype) if batched else value_of(cell, dtype)[0]
        for ours, exact in zip(tree_leaves(half(value)), tree_leaves(wide(value.float())), strict=True):
            assert torch.equal(ours, exact.to(dtype))

    @by_class
    @by_half
    def test_gradients(self, name, dtype):
        """In the half dtype, and those of float32 arithmetic rounded: upstream gradients are the only difference."""
        wide = build(name, dtype)
        half = build(name, dtype).to(dtype)
        half.load_state_dict(wide.state_dict())
        value = value_of(name, dtype)
        results = []
        for module, leaf in ((wide, value.float()), (half, value.clone())):
            leaf.requires_grad_()
            outputs = tree_leaves(module(leaf))
            upstream = [torch.ones_like(out) for out in outputs]
            results.append(torch.autograd.grad(outputs, [leaf, *module.parameters()], upstream))
        for exact, ours in zip(*results, strict=True):
            assert ours.dtype == dtype
            assert torch.equal(ours, exact.to(dtype))

    @by_layer
    @by_half
    def test_long_sequences_do_not_drift(self, layer, dtype):
        """State and sums in float32: after 300 steps the result is still one rounding away from float64's."""
        half = getattr(fastrnn, layer)(3, 16).to(dtype)
        exact = getattr(nn, layer)(3, 16, dtype=torch.float64)
        exact.load_state_dict(half.state_dict())
        value = randn(300, 2, 3).to(dtype)
        ours, reference = half(value)[0].double(), exact(value.double())[0]
        # Half an ulp of values below 1, and as much again for float32's own error where a rounding is a close call.
        assert (ours - reference).abs().max() <= torch.finfo(dtype).eps

    @by_layer
    @by_half
    def test_double_backward(self, layer, dtype):
        module, value = build(layer).to(dtype), value_of(layer, dtype).requires_grad_()
        first = torch.autograd.grad(module(value)[0].float().square().sum(), value, create_graph=True)[0]
        assert first.dtype == dtype
        second = torch.autograd.grad(first.float().square().sum(), [value, *module.parameters()], allow_unused=True)
        assert {g.dtype for g in second if g is not None} == {dtype}

    @by_layer
    @by_half
    def test_explain(self, layer, dtype):
        module, value = build(layer).to(dtype), value_of(layer, dtype)
        name = str(dtype).removeprefix("torch.")
        assert {row.precision for row in fastrnn.explain(module, value).rows} == {f"{name} in float32"}
        assert {row.precision for row in fastrnn.explain(module.float(), value.float()).rows} == {"float32"}


class TestAutocast:
    @by_layer
    @by_half
    @by_form
    def test_layers_return_autocasts_dtype(self, layer, dtype, form):
        """Every result of every layer; torch.nn has one rule for LSTM, another for GRU, and raises for LSTM in f16."""
        module, value = build(layer), value_of(layer)
        expected = run(module, form, value)
        with torch.autocast("cpu", dtype=dtype):
            actual = run(module, form, value)
        for ours, exact in zip(actual, expected, strict=True):
            assert ours.dtype == dtype
            # Computed in float32 from float32 weights: autocast rounds the results and nothing else.
            assert torch.equal(ours, exact.to(dtype))

    @pytest.mark.parametrize("cell", CELLS)
    @by_half
    def test_cells_return_autocasts_dtype(self, cell, dtype):
        module, value = build(cell), value_of(cell)
        with torch.autocast("cpu", dtype=dtype):
            state = module(value)
            again = module(value, state)  # their own results as states: half beside float32 weights
        for result in (*tree_leaves(state), *tree_leaves(again)):
            assert result.dtype == dtype

    @by_class
    @by_half
    @pytest.mark.parametrize("cached", (True, False))
    def test_gradients_have_their_leafs_dtype(self, name, dtype, cached):
        module, leaf = build(name), value_of(name).requires_grad_()
        with torch.autocast("cpu", dtype=dtype, cache_enabled=cached):
            outputs = tree_leaves(module(leaf))
        results = gradients(outputs, [leaf, *module.parameters()])
        exact = gradients(tree_leaves(module(leaf)), [leaf, *module.parameters()])
        for ours, wide in zip(results, exact, strict=True):
            assert ours.dtype == torch.float32
            # Upstream gradients were rounded, one for each output; sums of them differ by as much.
            torch.testing.assert_close(ours, wide, rtol=0, atol=20 * torch.finfo(dtype).eps * wide.abs().max().item())

    @by_class
    def test_mixed_dtypes_under_autocast(self, name):
        """A half input, as an autocast layer before would give it, beside float32 weights."""
        module, value = build(name), value_of(name, torch.bfloat16)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = tree_leaves(module(value))
        for ours, exact in zip(results, tree_leaves(module(value.float())), strict=True):
            assert torch.equal(ours, exact.bfloat16())

    @by_class
    def test_float64_keeps_out(self, name):
        module, value = build(name).double(), value_of(name).double()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            results = tree_leaves(module(value))
        for ours, exact in zip(results, tree_leaves(module(value)), strict=True):
            assert ours.dtype == torch.float64
            assert torch.equal(ours, exact)

    @by_class
    def test_switched_off_inside(self, name):
        module, value = build(name), value_of(name)
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
            assert {out.dtype for out in tree_leaves(module(value))} == {torch.float32}

    @by_layer
    @by_half
    def test_double_backward(self, layer, dtype):
        """The second derivative is not rounded by autocast on its way: it differs from float32's by upstream alone."""
        module, results = build(layer), []
        value = value_of(layer)
        for enabled in (False, True):
            leaf = value.clone().requires_grad_()
            with torch.autocast("cpu", dtype=dtype, enabled=enabled):
                output = module(leaf)[0]
                assert output.dtype == (dtype if enabled else torch.float32)
                (first,) = torch.autograd.grad(output.float().sum(), leaf, create_graph=True)
                results.append(
                    (first, *torch.autograd.grad(first.square().sum(), [leaf, *module.parameters()], allow_unused=True))
                )
        for wide, ours in zip(*results, strict=True):
            if wide is not None:
                assert ours.dtype == torch.float32
                torch.testing.assert_close(ours, wide, rtol=1e-4, atol=1e-5)

    @by_layer
    def test_dropout_draws_as_without(self, layer):
        module, value = getattr(fastrnn, layer)(3, 5, 2, dropout=0.5), value_of(layer)
        torch.manual_seed(2)
        expected = module(value)[0]
        torch.manual_seed(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(value)[0], expected.bfloat16())


@by_layer
@by_half
def test_grad_scaler(layer, dtype):
    """The usual loop learns, and a step with an infinity in it is skipped."""
    model, head = getattr(fastrnn, layer)(3, 8), nn.Linear(8, 1)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer, scaler = torch.optim.Adam(parameters, lr=0.02), torch.amp.GradScaler("cpu", init_scale=1024.0)
    value = randn(6, 8, 3)
    target = value.cumsum(0).tanh().sum(2, keepdim=True) / 3
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = (head(model(value)[0]).float() - target).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    before = [weight.clone() for weight in parameters]
    with torch.autocast("cpu", dtype=dtype):
        loss = model(value)[0].float().sum() * float("inf")
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(map(torch.equal, before, parameters))
    assert scaler.get_scale() < 1024.0 * 2
