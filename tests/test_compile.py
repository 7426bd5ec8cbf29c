"""torch.compile(fullgraph=True): one graph, compiled once, with the results and gradients of eager mode."""

import pytest
import torch
import torch.nn.functional as F
from cases import CELLS, KERNELS, LAYERS, randn
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import fastrnn

pytestmark = pytest.mark.thorough

# Steps and batch of successive calls, and 3 features into 5: dynamic sizes that are equal by chance would be
# specialised, and each call would then compile anew.
SHAPES = ((4, 6), (7, 2), (11, 9))

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_layer = pytest.mark.parametrize("layer", LAYERS)
# aot_eager, which most tests here make do with, traces what eager does, and backward too.
by_tracer = pytest.mark.parametrize("backend", ("eager", "aot_eager"))


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(kernel, **options):
    layer, more = KERNELS[kernel]
    return getattr(fastrnn, layer)(3, 5, **more | options)


def compiled(module, backend="aot_eager", dynamic=None):
    """The module compiled, and a counter of the graphs made."""
    counter = CompileCounterWithBackend(backend)
    return torch.compile(module, fullgraph=True, backend=counter, dynamic=dynamic), counter


class Compilations:
    """Asserts that no call after the first makes another graph.

    How many the first makes is not ours to say: with dynamic=True and dropout, a float, Dynamo starts over once.
    """

    def __init__(self, counter):
        self.counter, self.first = counter, None

    def check(self):
        self.first = self.first or self.counter.frame_count
        assert self.counter.frame_count == self.first


def tensors(result):
    """The floating tensors of what a layer or cell returned."""
    return [leaf for leaf in tree_leaves(result) if torch.is_tensor(leaf) and leaf.is_floating_point()]


def assert_equal_to_eager(module, function, arguments, leaves, **how):
    """Results in training and inference, and gradients."""
    expected, actual = tensors(module(*arguments, **how)), tensors(function(*arguments, **how))
    torch.testing.assert_close(actual, expected)
    wanted = [*leaves, *module.parameters()]
    gradients = [
        torch.autograd.grad(sum(out.sin().sum() for out in outputs), wanted, allow_unused=True)
        for outputs in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(tensors(function(*arguments, **how)), expected)


@by_kernel
@by_tracer
@pytest.mark.parametrize("bidirectional", (False, True))
def test_dynamic_steps_and_batch(kernel, backend, bidirectional):
    module = build(kernel, num_layers=2, bidirectional=bidirectional)
    function, counter = compiled(module, backend, dynamic=True)
    compilations = Compilations(counter)
    for steps, batch in SHAPES:
        value = randn(steps, batch, 3).requires_grad_()
        assert_equal_to_eager(module, function, (value,), (value,))
        compilations.check()


@by_layer
def test_training_alone_compiles_once(layer):
    module = getattr(fastrnn, layer)(3, 5)
    function, counter = compiled(module, dynamic=True)
    for steps, batch in SHAPES:
        tensors(function(randn(steps, batch, 3)))[0].sum().backward()
    assert counter.frame_count == 1


@by_layer
def test_sizes_become_dynamic_by_themselves(layer):
    """With dynamic=None the first change of shape compiles once more, and no later one does."""
    module = getattr(fastrnn, layer)(3, 5)
    function, counter = compiled(module)
    with torch.no_grad():
        for steps, batch in (*SHAPES, (5, 8), (13, 4)):
            value = randn(steps, batch, 3)
            torch.testing.assert_close(function(value)[0], module(value)[0])
    assert counter.frame_count == 2


@by_layer
@pytest.mark.parametrize("form", ("unbatched", "batch_first", "no bias", "zero batch"))
def test_forms(layer, form):
    module = getattr(fastrnn, layer)(3, 5, bias=form != "no bias", batch_first=form == "batch_first")
    function, _ = compiled(module)
    value = randn(*{"unbatched": (4, 3), "zero batch": (4, 0, 3)}.get(form, (4, 6, 3))).requires_grad_()
    assert_equal_to_eager(module, function, (value,), (value,))


@by_layer
@pytest.mark.parametrize("same", (False, True))
def test_states(layer, same):
    """Given states; for the LSTM also one tensor as both, which Dynamo sees as a duplicate input."""
    module = getattr(fastrnn, layer)(3, 5, 2)
    function, counter = compiled(module, dynamic=True)
    compilations = Compilations(counter)
    for steps, batch in SHAPES:
        value, hx = randn(steps, batch, 3).requires_grad_(), randn(2, batch, 5).requires_grad_()
        cx = hx if same else randn(2, batch, 5).requires_grad_()
        is_lstm = layer == "LSTM"
        leaves = (value, hx, cx) if is_lstm else (value, hx)
        assert_equal_to_eager(module, function, (value, (hx, cx) if is_lstm else hx), leaves)
        compilations.check()


@pytest.mark.parametrize("cell", CELLS)
@by_tracer
@pytest.mark.parametrize("has_hx", (False, True))
def test_cells(cell, backend, has_hx):
    module = getattr(fastrnn, cell)(3, 5)
    function, counter = compiled(module, backend, dynamic=True)
    compilations = Compilations(counter)
    for _, batch in SHAPES:
        value, hx = randn(batch, 3).requires_grad_(), randn(batch, 5).requires_grad_()
        arguments = (value, (hx, hx) if cell == "LSTMCell" else hx) if has_hx else (value,)
        assert_equal_to_eager(module, function, arguments, (value, hx) if has_hx else (value,))
        compilations.check()
    assert counter.frame_count == 2  # training and inference


@by_layer
def test_cell_in_a_loop(layer):
    """A decoder that feeds itself: the loop is unrolled into one graph."""
    cell = getattr(fastrnn, f"{layer}Cell")(5, 5)

    def decode(state):
        for _ in range(3):
            state = cell(state[0] if layer == "LSTM" else state, state)
        return state

    hx = randn(4, 5)
    state = (hx, hx.cos()) if layer == "LSTM" else hx
    function = torch.compile(decode, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(tensors(function(state)), tensors(decode(state)))


@by_layer
@pytest.mark.parametrize("enforce_sorted", (False, True))
def test_packed_outside(layer, enforce_sorted):
    module = getattr(fastrnn, layer)(3, 5, 2, bidirectional=True)
    function, _ = compiled(module, dynamic=True)
    for steps, batch in SHAPES[:2]:
        lengths = torch.linspace(steps, 1, batch).long()
        if not enforce_sorted:
            lengths = lengths.flip(0)
        packed = pack_padded_sequence(randn(steps, batch, 3), lengths, enforce_sorted=enforce_sorted)
        value = packed.data.requires_grad_()
        assert_equal_to_eager(module, function, (packed,), (value,))
        output = function(packed)[0]
        assert isinstance(output, PackedSequence)
        torch.testing.assert_close(pad_packed_sequence(output), pad_packed_sequence(module(packed)[0]))


@by_layer
def test_lengths(layer):
    """Lengths are data: no graph depends on their values."""
    module = getattr(fastrnn, layer)(3, 5, 2, bidirectional=True)
    function, counter = compiled(module, dynamic=True)
    compilations = Compilations(counter)
    for steps, batch in SHAPES:
        value = randn(steps, batch, 3).requires_grad_()
        for _ in range(2):
            lengths = torch.randint(0, steps + 1, (batch,))
            assert_equal_to_eager(module, function, (value,), (value,), lengths=lengths)
            compilations.check()


@by_layer
def test_lengths_out_of_range_are_clamped(layer):
    """Eager mode raises; a graph may not look at values, and takes them for 0 and T."""
    module = getattr(fastrnn, layer)(3, 5, bidirectional=True)
    function, _ = compiled(module)
    value = randn(4, 3, 3)
    actual, expected = function(value, lengths=torch.tensor([-3, 2, 9])), module(value, lengths=torch.tensor([0, 2, 4]))
    torch.testing.assert_close(tensors(actual), tensors(expected))


class Jagged(nn.Module):
    """A layer of sequences that lie one behind another."""

    def __init__(self, layer, longest, **options):
        super().__init__()
        self.rnn = getattr(fastrnn, layer)(3, 8, 2, bidirectional=True, **options)
        self.longest = longest

    def forward(self, values, offsets):
        value = torch.nested.nested_tensor_from_jagged(values, offsets, max_seqlen=self.longest)
        output, finals = self.rnn(value)
        return output.values(), finals


@by_layer
@pytest.mark.parametrize("longest", (None, 5))
@pytest.mark.parametrize("options", ({}, {"zoneout": 0.3}), ids=str)
def test_jagged(layer, longest, options):
    """Also where the graph has no means to know the longest sequence: padded to the sum of all lengths, a call would do
    many times the work."""
    sizes = []

    def backend(graph, inputs):
        values = tree_leaves([node.meta.get("example_value") for node in graph.graph.nodes])
        sizes.extend(value.numel() for value in values if torch.is_tensor(value))
        return aot_eager(graph, inputs)

    module = Jagged(layer, longest, **options).eval()
    function = torch.compile(module, fullgraph=True, backend=backend, dynamic=False)
    lengths = torch.tensor([0, 3, *[1] * 100, 5, 2])
    values = randn(int(lengths.sum()), 3).requires_grad_()
    assert_equal_to_eager(module, function, (values, F.pad(lengths.cumsum(0), (1, 0))), (values,))
    assert max(sizes) < len(lengths) * len(values) * 16, "as large as an output padded to the sum of all lengths"


@by_layer
def test_dropout(layer):
    """The masks are drawn from torch's generator, as in eager mode, and off in eval mode."""
    module = getattr(fastrnn, layer)(3, 5, 3, dropout=0.5)
    function, _ = compiled(module)
    value, results = randn(4, 6, 3), []
    for each in (module, function):
        torch.manual_seed(3)
        output = each(value)[0]
        results.append((output, each(value)[0], *torch.autograd.grad(output.sum(), module.parameters())))
    torch.testing.assert_close(results[1], results[0])
    assert not torch.allclose(results[1][0], results[1][1]), "the same mask twice"
    module.eval()
    torch.testing.assert_close(function(value)[0], module(value)[0])


@by_layer
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_and_autocast(layer, dtype):
    module, value = getattr(fastrnn, layer)(3, 5, 2), randn(4, 6, 3)

    def under_autocast(value):
        with torch.autocast("cpu", dtype=dtype):
            return module(value)[0]

    function = torch.compile(under_autocast, fullgraph=True, backend="aot_eager")
    assert torch.equal(function(value), under_autocast(value))
    module.to(dtype)
    function, _ = compiled(module)
    assert torch.equal(function(value.to(dtype))[0], module(value.to(dtype))[0])


@by_layer
@pytest.mark.parametrize("transform", ("grad", "grad by weights", "jvp", "hessian", "vmap", "vmap of grad"))
def test_torch_func(layer, transform):
    """Transforms inside the compiled region: f64, so that a dropped derivative cannot hide in rounding."""
    module = getattr(fastrnn, layer)(3, 5, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}

    def loss(value, weights=weights):
        return torch.func.functional_call(module, weights, (value,))[0].square().sum()

    def run(value):
        if transform == "grad":
            return torch.func.grad(loss)(value)
        if transform == "grad by weights":
            return torch.func.grad(loss, argnums=1)(value, weights)
        if transform == "jvp":
            return torch.func.jvp(loss, (value,), (value.cos(),))
        if transform == "hessian":
            return torch.func.hessian(loss)(value)
        if transform == "vmap":
            return torch.func.vmap(loss, in_dims=1)(value)
        return torch.func.vmap(torch.func.grad(loss, argnums=1), in_dims=(1, None))(value, weights)

    value = randn(2, 2, 3, dtype=torch.float64)
    expected = run(value)
    actual = torch.compile(run, fullgraph=True, backend="aot_eager")(value)
    torch.testing.assert_close(actual, expected)


@by_layer
def test_gradient_taken_twice_outside(layer):
    """A compiled forward cannot be differentiated twice under aot_autograd; under "eager" its graph can."""
    module = getattr(fastrnn, layer)(3, 5, dtype=torch.float64)
    value, results = randn(4, 6, 3, dtype=torch.float64).requires_grad_(), []
    for each in (module, compiled(module, "eager")[0]):
        (first,) = torch.autograd.grad(each(value)[0].square().sum(), value, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [value, *module.parameters()]))
    torch.testing.assert_close(*results)


class Model(nn.Module):
    """A layer among others, for inductor to fuse around."""

    def __init__(self, layer, **options):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.rnn = getattr(fastrnn, layer)(3, 5, **options)
        self.head = nn.Linear(5 * (1 + self.rnn.bidirectional), 7)

    def forward(self, tokens, lengths=None):
        return self.head(self.rnn(self.embedding(tokens).relu(), lengths=lengths)[0]).log_softmax(-1)


# Slow: a C++ compiler runs for each graph.
@pytest.mark.parametrize(("layer", "ragged"), [("LSTM", False), ("GRU", True)])
def test_inductor(layer, ragged):
    # In double precision: inductor sums in an order of its own.
    module = Model(layer, num_layers=2, bidirectional=True).double()
    function, counter = compiled(module, "inductor", dynamic=True)
    compilations = Compilations(counter)
    for steps, batch in SHAPES:
        tokens = torch.randint(7, (steps, batch))
        how = {"lengths": torch.randint(0, steps + 1, (batch,))} if ragged else {}
        expected, actual = module(tokens, **how), function(tokens, **how)
        torch.testing.assert_close(actual, expected)
        gradients = [torch.autograd.grad(out.square().sum(), module.parameters()) for out in (actual, expected)]
        torch.testing.assert_close(*gradients)
        compilations.check()


def test_inductor_dropout():
    """Inductor draws its own masks: they are masks, zeros and survivors scaled up, new on each call."""
    module = fastrnn.RNN(3, 5, 2, nonlinearity="relu", dropout=0.5, bias=False)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.eye(*weight.shape) if weight is not module.weight_hh_l0 else torch.zeros(5, 5))
        module.weight_hh_l1.zero_()
    function, _ = compiled(module, "inductor")
    output = function(torch.ones(20, 50, 3))[0][..., :3]
    assert set(output.unique().tolist()) == {0.0, 2.0}
    assert 0.4 < (output == 0).float().mean() < 0.6
