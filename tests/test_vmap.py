"""torch.func.vmap over inputs, states and weights, per-sample gradients, and torch.autograd's batched gradients.

The measure is a Python loop over the samples.
"""

import itertools

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, Case, randn
from primals import RAGGED, LayerCase, assert_close_trees, counted, loss_of
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from torch.utils._pytree import tree_map

import fastrnn

pytestmark = pytest.mark.thorough

SAMPLES = 4
CASES = [
    LayerCase(kernel, both, True, ragged, layers=2 if both else 1)
    for kernel, both, ragged in itertools.product(KERNELS, (False, True), RAGGED)
]
FEW_CASES = [case for case in CASES if (case.ragged is None) != case.bidirectional]

by_case = pytest.mark.parametrize("case", CASES, ids=str)
by_few = pytest.mark.parametrize("case", FEW_CASES, ids=str)
by_layer = pytest.mark.parametrize("layer", LAYERS)


def samples(tensor, count=SAMPLES, dim=0):
    """`count` tensors like this one, stacked along dim."""
    generator = torch.Generator().manual_seed(tensor.numel() + 7 * dim)
    others = torch.randn((count, *tensor.shape), generator=generator, dtype=tensor.dtype) / 2
    return (tensor + others).movedim(0, dim)


def looped(function, in_dims, arguments):
    """What vmap computes, one sample at a time."""
    count = next(a.shape[d] for a, d in zip(arguments, in_dims, strict=True) if d is not None)
    results = [
        function(*(a if d is None else a.select(d, sample) for a, d in zip(arguments, in_dims, strict=True)))
        for sample in range(count)
    ]
    return tree_map(lambda *parts: torch.stack(parts), *results)


def batched(case, dims):
    """The case's primals, with samples along those dimensions where there is one."""
    return [p if dim is None else samples(p, dim=dim) for p, dim in zip(case.primals(), dims, strict=True)]


def dims_of(case, input=None, states=None, weights=None):
    return (input, *[states] * case.states, *[weights] * len(case.of_weights))


class TestForward:
    @by_case
    @pytest.mark.parametrize("input_dim", (0, 1, -1, None))
    def test_over_input_or_states_is_one_call(self, case, input_dim):
        """The samples fold into the batch. Without samples of the input those are of the states."""
        dims = dims_of(case, input_dim, 1 if input_dim is None else None)
        arguments = batched(case, dims)
        with counted(case.cell) as calls:
            actual = vmap(case.run, in_dims=dims)(*arguments)
        assert dict(calls) == {"plain_infer": 1}
        assert_close_trees(actual, looped(case.oracle, dims, arguments))

    @by_case
    def test_over_input_and_states(self, case):
        dims = dims_of(case, 0, -1)
        arguments = batched(case, dims)
        assert_close_trees(vmap(case.run, in_dims=dims)(*arguments), looped(case.oracle, dims, arguments))

    @by_case
    @pytest.mark.parametrize("input_dim", (None, 0))
    def test_over_weights(self, case, input_dim):
        dims = dims_of(case, input_dim, weights=0)
        arguments = batched(case, dims)
        assert_close_trees(vmap(case.run, in_dims=dims)(*arguments), looped(case.oracle, dims, arguments))

    @by_few
    def test_over_one_weight(self, case):
        dims = [None] * len(case.primals())
        dims[1 + case.states + 1] = 1  # w_hh alone, its samples in the middle
        arguments = batched(case, dims)
        actual = vmap(case.run, in_dims=tuple(dims))(*arguments)
        assert_close_trees(actual, looped(case.oracle, dims, arguments))

    @by_few
    @pytest.mark.parametrize("outer", (0, 2))
    def test_nested(self, case, outer):
        """Samples of samples, still one call."""
        input, *rest = case.primals()
        value = samples(samples(input), count=3, dim=outer)
        with counted(case.cell) as calls:
            actual = vmap(vmap(lambda value: case.run(value, *rest)), in_dims=outer)(value)
        assert dict(calls) == {"plain_infer": 1}

        def one(value):
            return looped(lambda value: case.oracle(value, *rest), (0,), (value,))

        assert_close_trees(actual, looped(one, (outer,), (value,)))

    @by_few
    def test_inner_over_weights(self, case):
        """An ensemble for each of several inputs."""
        input, *states = case.primals()[: 1 + case.states]
        weights = [samples(w) for w in case.primals()[1 + case.states :]]
        values = samples(input, count=2)

        def ensemble(run, mapped):
            inner = dims_of(case, weights=0)
            return lambda value: mapped(run, inner, (value, *states, *weights))

        actual = vmap(ensemble(case.run, lambda f, dims, a: vmap(f, in_dims=dims)(*a)))(values)
        assert_close_trees(actual, looped(ensemble(case.oracle, looped), (0,), (values,)))

    def test_no_samples_in_chunks_or_alone(self):
        case = LayerCase("gru")
        dims = dims_of(case, 0)
        for count in (1, 5):
            arguments = [samples(case.primals()[0], count), *case.primals()[1:]]
            actual = vmap(case.run, in_dims=dims, chunk_size=2)(*arguments)
            assert_close_trees(actual, looped(case.oracle, dims, arguments))


class TestGradients:
    @by_case
    def test_per_sample(self, case):
        """vmap(grad) by every argument: one call each way, where folding alone would sum the weights' gradients."""
        dims = dims_of(case, 0, 1)
        arguments = batched(case, dims)
        everything = tuple(range(len(arguments)))
        with counted(case.cell) as calls:
            actual = vmap(grad(loss_of(case.run), argnums=everything), in_dims=dims)(*arguments)
        # Forward once for the value and once more for what backward reads.
        assert dict(calls) == {"plain_infer": 1, "plain_forward": 1, "plain_backward": 1}
        assert_close_trees(actual, looped(grad(loss_of(case.oracle), argnums=everything), dims, arguments))

    @by_few
    def test_per_sample_in_chunks(self, case, chunks):
        """Groups of the weights' gradients, added up chunk by chunk."""
        chunks(2 * SAMPLES)
        dims = dims_of(case, 0, 1)
        arguments = batched(case, dims)
        everything = tuple(range(len(arguments)))
        actual = vmap(grad(loss_of(case.run), argnums=everything), in_dims=dims)(*arguments)
        assert_close_trees(actual, looped(grad(loss_of(case.oracle), argnums=everything), dims, arguments))

    @by_layer
    def test_per_sample_in_a_wavefront(self, layer):
        """Layers on threads of their own, for the samples of all."""
        torch.set_num_threads(2)
        module = getattr(fastrnn, layer)(3, 40, 2, dtype=torch.float64)
        weights = {name: weight.detach() for name, weight in module.named_parameters()}
        values = randn(SAMPLES, 240, 1, 3, dtype=torch.float64)
        assert "wavefront" in fastrnn.explain(module, values[:, :, 0].transpose(0, 1)).rows[0].reason

        def gradient(value):
            return grad(lambda weights: functional_call(module, weights, (value,))[0].sin().sum())(weights)

        assert_close_trees(vmap(gradient)(values), looped(gradient, (0,), (values,)))

    @by_few
    def test_of_an_ensemble(self, case):
        dims = dims_of(case, None, weights=0)
        arguments = batched(case, dims)
        everything = tuple(range(len(arguments)))
        actual = vmap(grad(loss_of(case.run), argnums=everything), in_dims=dims)(*arguments)
        assert_close_trees(actual, looped(grad(loss_of(case.oracle), argnums=everything), dims, arguments))

    @by_few
    def test_nested_per_sample(self, case):
        input, *rest = case.primals()
        dims, value = dims_of(case, 0), samples(samples(input), count=3)
        everything = tuple(range(1 + len(rest)))

        def per_sample(run):
            return grad(loss_of(run), argnums=everything)

        actual = vmap(vmap(per_sample(case.run), in_dims=dims), in_dims=dims)(value, *rest)

        def inner(*arguments):
            return looped(per_sample(case.oracle), dims, arguments)

        assert_close_trees(actual, looped(inner, dims, (value, *rest)))

    @by_few
    def test_gradient_of_per_sample_gradients(self, case):
        """What meta-learning differentiates: a loss on the results of vmap(grad)."""
        input, *rest = case.primals()
        dims, value = dims_of(case, 0), samples(input)
        everything = tuple(range(1 + len(rest)))

        def outer(run):
            def loss(*rest):
                gradients = vmap(grad(loss_of(run), argnums=everything), in_dims=dims)(value, *rest)
                return sum(g.cos().sum() for g in gradients)

            return grad(loss, argnums=tuple(range(len(rest))))(*rest)

        assert_close_trees(outer(case.run), outer(case.oracle))

    @by_few
    def test_of_a_vmapped_loss(self, case):
        """grad over vmap, and eager backward over vmap: the shared weights' gradients are sums over the samples."""
        input, *rest = case.primals()
        dims, value = dims_of(case, 0), samples(input)

        def loss(run):
            return lambda *rest: vmap(loss_of(run), in_dims=dims)(value, *rest).sum()

        everything = tuple(range(len(rest)))
        expected = grad(loss(case.oracle), argnums=everything)(*rest)
        assert_close_trees(grad(loss(case.run), argnums=everything)(*rest), expected)
        leaves = [tensor.clone().requires_grad_() for tensor in rest]
        assert_close_trees(torch.autograd.grad(loss(case.run)(*leaves), leaves), expected)

    @by_few
    def test_jvp_and_jacobian_per_sample(self, case):
        input, *rest = case.primals()
        dims, values = (0,), samples(input)

        def tangent(run):
            return lambda value: jvp(lambda v: run(v, *rest), (value,), (value.cos(),))

        def jacobian(run):
            return jacrev(lambda value: loss_of(run)(value, *rest))

        for transform in (tangent, jacobian):
            expected = looped(transform(case.oracle), dims, (values,))
            assert_close_trees(vmap(transform(case.run))(values), expected)

    @by_case
    @pytest.mark.parametrize("create_graph", (False, True))
    def test_is_grads_batched(self, case, create_graph):
        """torch.autograd's own vmap over upstream gradients."""
        leaves = [primal.requires_grad_() for primal in case.primals()]
        results = []
        for run in (case.run, case.oracle):
            output = run(*leaves)[0]
            upstream = samples(torch.zeros_like(output))
            gradients = torch.autograd.grad(
                output, leaves, upstream, is_grads_batched=True, create_graph=create_graph, allow_unused=True
            )
            if create_graph:
                gradients += torch.autograd.grad(sum(g.sin().sum() for g in gradients if g is not None), leaves)
            results.append(gradients)
        assert_close_trees(*results)


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
def test_ensemble_of_modules(name):
    """torch.func.stack_module_state: many models with one architecture, called as one."""
    options = {"num_layers": 2, "bidirectional": True} if name in LAYERS else {}
    models = [getattr(fastrnn, name)(2, 3, dtype=torch.float64, **options) for _ in range(SAMPLES)]
    parameters, buffers = stack_module_state(models)
    skeleton = models[0].to("meta") if name == "LSTM" else models[0]
    value = randn(*(5, 2) if name in LAYERS else (), 2, dtype=torch.float64)

    def one(parameters, buffers, value):
        return functional_call(skeleton, (parameters, buffers), (value,))

    def loss(parameters, buffers, value):
        return sum(out.sin().sum() for out in torch.utils._pytree.tree_leaves(one(parameters, buffers, value)))

    def of_one(index):
        weights = {name: weight[index].detach() for name, weight in parameters.items()}
        return one(weights, {}, value), grad(loss)(weights, {}, value)

    each = [of_one(index) for index in range(SAMPLES)]
    expected = tree_map(lambda *parts: torch.stack(parts), *each)
    parameters = {name: weight.detach() for name, weight in parameters.items()}
    in_dims = (0, 0, None)
    actual = vmap(one, in_dims)(parameters, buffers, value), vmap(grad(loss), in_dims)(parameters, buffers, value)
    assert_close_trees(actual, expected)


@by_layer
@pytest.mark.parametrize("layout", ("batched", "unbatched", "batch_first", "lengths"))
def test_modules_over_inputs(layer, layout):
    """Everything that stands between a module's arguments and autograd.run can be vmapped too."""
    case = Case(layer, {"num_layers": 2, "bidirectional": True, "batch_first": layout == "batch_first"})
    module = case.build(torch.float64, fastrnn)
    values = randn(SAMPLES, 4, *(() if layout == "unbatched" else (3,)), 3, dtype=torch.float64)
    how = {"lengths": torch.tensor([2, 0, 4])} if layout == "lengths" else {}
    weights = {name: weight.detach() for name, weight in module.named_parameters()}

    def loss(weights, value):
        return functional_call(module, weights, (value,), how)[0].square().sum()

    assert_close_trees(vmap(lambda v: module(v, **how))(values), looped(lambda v: module(v, **how), (0,), (values,)))
    in_dims = (None, 0)
    gradients = [grad(loss)(weights, value) for value in values]
    expected = tree_map(lambda *parts: torch.stack(parts), *gradients)
    assert_close_trees(vmap(grad(loss), in_dims)(weights, values), expected)


class TestDropout:
    def run(self, layer, **how):
        torch.manual_seed(0)
        module = getattr(fastrnn, layer)(2, 3, 2, dropout=0.5)
        value = torch.ones(SAMPLES, 4, 2, 2)
        return vmap(lambda value: module(value)[0], **how)(value)

    @by_layer
    def test_refused_unless_asked_for(self, layer):
        """As torch.dropout under vmap."""
        with pytest.raises(RuntimeError, match="randomness"):
            self.run(layer)

    @by_layer
    def test_same_for_every_sample(self, layer):
        output = self.run(layer, randomness="same")
        for sample in output[1:]:
            torch.testing.assert_close(sample, output[0])

    @by_layer
    def test_different_for_each_sample(self, layer):
        output = self.run(layer, randomness="different")
        assert all(not torch.allclose(a, b) for a, b in itertools.combinations(output, 2))


@pytest.mark.parametrize("layer", (*LAYERS, "JordanRNN"))
@pytest.mark.parametrize("over", ("lengths", "resets"))
def test_over_what_is_not_differentiated_is_refused(layer, over):
    module, value = getattr(fastrnn, layer)(3, 5, *([2] if layer == "JordanRNN" else [])), randn(6, 2, 3)
    given = torch.tensor([[2, 6], [1, 4]]) if over == "lengths" else torch.zeros(2, 6, 2, dtype=torch.bool)

    def total(value, given):
        return module(value, **{over: given})[0].sum()

    for function in (total, grad(total)):
        with pytest.raises(NotImplementedError, match=r"vmap over lengths, .*resets.*call once for each"):
            vmap(function, in_dims=(None, 0))(value, given)
        grad(total)(value, given[0])
