"""Derivatives beyond the first backward, function transforms and compilation, on tensors of the GPU.

The oracle is the formula of reference.py on the CPU.
"""

import itertools

import pytest
import torch
from cases import KERNELS, LAYERS
from drawn import case_of
from measure import close
from precisions import PRECISIONS
from primals import RAGGED, LayerCase, assert_close_trees, loss_of
from test_vmap import batched, dims_of, looped
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._pytree import tree_leaves, tree_map

import fastrnn

LAYER_CASES = [
    LayerCase(kernel, bidirectional, True, ragged)
    for kernel, bidirectional, ragged in itertools.product(KERNELS, (False, True), RAGGED)
]

by_case = pytest.mark.parametrize("case", LAYER_CASES, ids=str)
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_half = pytest.mark.parametrize("name", ("f16", "bf16"))


def moved(tree, device):
    return tree_map(lambda tensor: tensor.to(device), tree)


def leaves_of(case, device):
    return [primal.to(device).requires_grad_() for primal in case.primals()]


@by_case
def test_gradcheck(case, device):
    assert gradcheck(case.run, leaves_of(case, device), fast_mode=True)


@by_case
def test_gradgradcheck(case, device):
    assert gradgradcheck(case.run, leaves_of(case, device), fast_mode=True)


@by_layer
@pytest.mark.parametrize("order", (gradcheck, gradgradcheck))
def test_with_lengths_on_the_device(layer, order, device):
    module = getattr(fastrnn, layer)(2, 3, bidirectional=True, dtype=torch.float64, device=device)
    lengths = torch.tensor([2, 0, 4], device=device)
    names = [name for name, _ in module.named_parameters()]
    value = torch.randn(4, 3, 2, dtype=torch.float64, device=device, requires_grad=True)
    weights = [weight.detach().clone().requires_grad_() for weight in module.parameters()]

    def function(value, *weights):
        results = functional_call(module, dict(zip(names, weights, strict=True)), (value,), {"lengths": lengths})
        return tuple(tree_leaves(results))

    assert order(function, [value, *weights], fast_mode=True)


@by_case
def test_forward_mode(case, device):
    primals = case.primals()
    expected = jvp(case.oracle, primals, tuple(primal.cos() for primal in primals))
    placed = moved(primals, device)
    actual = jvp(case.run, placed, tuple(primal.cos() for primal in placed))
    assert_close_trees(moved(actual, "cpu"), expected)


@by_case
def test_per_sample_gradients(case, device):
    dims = dims_of(case, 0, 1)
    arguments = batched(case, dims)
    everything = tuple(range(len(arguments)))
    actual = vmap(grad(loss_of(case.run), argnums=everything), in_dims=dims)(*moved(arguments, device))
    assert_close_trees(moved(actual, "cpu"), looped(grad(loss_of(case.oracle), argnums=everything), dims, arguments))


@by_layer
@by_half
def test_per_sample_gradients_in_half(layer, name, device):
    """Folded into one call of a size that fits a persistent kernel, against a call for each sample."""
    precision = PRECISIONS[name]
    module = getattr(fastrnn, layer)(8, 32, dtype=precision.dtype, device=device)
    weights = {key: weight.detach() for key, weight in module.named_parameters()}
    values = torch.randn(5, 6, 7, 8, dtype=precision.dtype, device=device)

    def loss(weights, value):
        return functional_call(module, weights, (value,))[0].float().square().sum()

    actual = vmap(grad(loss), in_dims=(None, 0))(weights, values)
    for sample in range(5):
        expected = grad(loss)(weights, values[sample])
        close([actual[key][sample] for key in expected], expected.values(), precision.eps)


@by_layer
@by_half
def test_double_backward_in_half(layer, name, device):
    """Of the gradient that the kernels computed, by the formula in float32."""
    precision = PRECISIONS[name]
    exact = getattr(torch.nn, layer)(8, 32, dtype=torch.float64)
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.to(precision.dtype))
    ours = getattr(fastrnn, layer)(8, 32, dtype=precision.dtype, device=device)
    ours.load_state_dict(exact.state_dict())
    value = torch.randn(5, 4, 8).to(precision.dtype)
    results = []
    for module, leaf in ((exact, value.double()), (ours, value.to(device))):
        leaf.requires_grad_()
        (first,) = torch.autograd.grad(module(leaf)[0].square().sum(), leaf, create_graph=True)
        results.append(torch.autograd.grad(first.square().sum(), [leaf, *module.parameters()]))
    for reference, actual in zip(*results, strict=True):
        assert actual.dtype == precision.dtype
        assert (actual.cpu().double() - reference).norm() <= 4 * precision.eps * reference.norm()


class TestCompile:
    @pytest.fixture(autouse=True)
    def _forget_what_was_compiled(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @staticmethod
    def check(precision, module, function, value, **how):
        """Results in training and inference, and gradients, are those of eager mode."""
        results = []
        for each in (module, function):
            outputs = tree_leaves(each(value, **how))
            gradients = torch.autograd.grad(sum(out.float().sin().sum() for out in outputs), module.parameters())
            with torch.no_grad():
                results.append([*outputs, *gradients, *tree_leaves(each(value, **how))])
        close(results[1], results[0], precision.eps)

    @pytest.mark.parametrize("kernel", KERNELS)
    @pytest.mark.parametrize("name", ("f64", "tf32", "f16"))
    @pytest.mark.parametrize("backend", ("eager", "aot_eager"))
    @pytest.mark.parametrize("ragged", (False, True))
    def test_fullgraph(self, kernel, name, backend, ragged, device):
        precision = PRECISIONS[name]
        precision.switch()
        case = case_of(kernel, 32, 5, 6, num_layers=2, bidirectional=True)
        module = case.build(precision.dtype, fastrnn).to(device)
        function = torch.compile(module, fullgraph=True, backend=backend)
        value = torch.randn(6, 5, 16, dtype=precision.dtype, device=device)
        how = {"lengths": torch.tensor([3, 6, 1, 0, 6], device=device)} if ragged else {}
        self.check(precision, module, function, value, **how)

    @by_layer
    def test_inductor(self, layer, device):
        precision = PRECISIONS["bf16"]
        module = getattr(fastrnn, layer)(16, 32, dtype=precision.dtype, device=device)
        function = torch.compile(module, fullgraph=True)
        self.check(precision, module, function, torch.randn(6, 5, 16, dtype=precision.dtype, device=device))


class TestDropout:
    @staticmethod
    def build(layer, device, dtype, dropout=0.5):
        return getattr(fastrnn, layer)(16, 32, 3, dropout=dropout, dtype=dtype, device=device)

    @by_layer
    @pytest.mark.parametrize("name", PRECISIONS)
    def test_obeys_torchs_generator(self, layer, name, device):
        """The masks are those of torch.dropout between single layers, drawn in turn."""
        precision = PRECISIONS[name]
        precision.switch()
        module = self.build(layer, device, precision.dtype)
        value = torch.randn(5, 18, 16, dtype=precision.dtype, device=device)
        torch.manual_seed(3)
        actual = module(value)[0]
        assert not torch.equal(actual, module(value)[0]), "the same mask twice"
        torch.manual_seed(3)
        assert torch.equal(actual, module(value)[0])

        singles = []
        for index in range(3):
            single = getattr(fastrnn, layer)(16 if not index else 32, 32, dtype=precision.dtype, device=device)
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            single.load_state_dict({f"{n}_l0": getattr(module, f"{n}_l{index}").detach() for n in names})
            singles.append(single)
        torch.manual_seed(3)
        expected = singles[0](value)[0]
        for single in singles[1:]:
            expected = single(torch.dropout(expected, 0.5, True))[0]
        close([actual], [expected], precision.eps)

    @by_layer
    def test_off_in_eval_mode(self, layer, device):
        module = self.build(layer, device, torch.float16).eval()
        plain = self.build(layer, device, torch.float16, dropout=0.0)
        plain.load_state_dict(module.state_dict())
        value = torch.randn(5, 18, 16, dtype=torch.float16, device=device)
        assert torch.equal(module(value)[0], plain(value)[0])
