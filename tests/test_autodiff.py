"""Every derivative beyond the first backward: higher orders, forward mode, and which of them the kernels compute."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, LAYOUTS, Case, call, flatten, make_leaves, option_product, pair, randn
from primals import RAGGED, LayerCase, assert_close_trees, counted, loss_of
from torch.autograd import forward_ad, grad, gradgradcheck
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp

import fastrnn
from fastrnn._ops import schema

pytestmark = pytest.mark.thorough

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

ALL_CASES = [
    LayerCase(kernel, bidirectional, bias, ragged, layers)
    for kernel, bidirectional, (bias, layers), ragged in itertools.product(
        KERNELS, (False, True), ((True, 1), (False, 1), (True, 2)), RAGGED
    )
]
# One direction, one layer and no packing first, then all of it at once: where they differ is in the kernels, not in the
# orders.
FEW_CASES = [
    LayerCase(kernel, all_at_once, True, "padded" if all_at_once else None, 2 if all_at_once else 1)
    for kernel in KERNELS
    for all_at_once in (False, True)
]

by_case = pytest.mark.parametrize("case", FEW_CASES, ids=str)
by_layer = pytest.mark.parametrize("layer", LAYERS)


def leaves_of(case):
    return [primal.requires_grad_() for primal in case.primals()]


class TestDoubleBackward:
    @pytest.mark.gradcheck
    @pytest.mark.parametrize("case", ALL_CASES, ids=str)
    def test_every_option_of_a_layer(self, case):
        assert gradgradcheck(case.run, leaves_of(case), fast_mode=True)

    @pytest.mark.gradcheck
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_every_entry(self, kernel):
        """Slow mode: the whole Jacobian, where fast mode multiplies it by random vectors."""
        case = LayerCase(kernel, True, True, "padded", input_size=1, hidden_size=3)
        assert gradgradcheck(case.run, leaves_of(case))

    @pytest.mark.parametrize("layer", LAYERS)
    def test_every_option_of_a_module(self, layer):
        """Of the gradient's own gradient, torch.nn in f64 has the same."""
        layouts = itertools.cycle(LAYOUTS)
        for options, has_hx in itertools.product(option_product(layer), (False, True)):
            case = Case(layer, options, next(layouts), has_hx)
            check_second_gradients(case)

    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.parametrize("has_hx", (False, True))
    @pytest.mark.parametrize("bias", (False, True))
    def test_cells(self, cell, has_hx, bias):
        module = getattr(fastrnn, cell)(2, 3, bias=bias, dtype=torch.float64)
        leaves = {"input": randn(2, 2, dtype=torch.float64)}
        if has_hx:
            leaves |= {name: randn(2, 3, dtype=torch.float64) for name in ("hx", "cx")[: 1 + (cell == "LSTMCell")]}
        names = [*leaves, *dict(module.named_parameters())]

        def function(*values):
            named = dict(zip(names, values, strict=True))
            arguments = {name: named.pop(name) for name in leaves}
            hx = (arguments["hx"], arguments["cx"]) if "cx" in arguments else arguments.get("hx")
            return functional_call(module, named, (arguments["input"], hx))

        values = [v.detach().clone().requires_grad_() for v in (*leaves.values(), *module.parameters())]
        assert gradgradcheck(function, values, fast_mode=True)

    @pytest.mark.parametrize("layer", LAYERS)
    def test_lengths(self, layer):
        module = getattr(fastrnn, layer)(2, 3, 2, bidirectional=True, dtype=torch.float64)
        lengths = torch.tensor([2, 0, 3])
        value = randn(3, 3, 2, dtype=torch.float64).requires_grad_()
        assert gradgradcheck(lambda value: module(value, lengths=lengths)[0], value, fast_mode=True)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_of_the_public_op(self, kernel):
        """What torch.compile and torch.export leave in a graph can be differentiated twice by itself."""
        case = LayerCase(kernel, True, layers=2)
        data = 1 + case.states

        def function(*primals):
            states, weights = list(primals[1:data]), list(primals[data:])
            output, finals, _cells, _reserve = schema.forward(
                case.cell, primals[0], states, weights, None, True, False, None, None, None, None, None, False, None
            )
            return output, *finals

        assert gradgradcheck(function, leaves_of(case), fast_mode=True)


def check_second_gradients(case):
    """The gradient of a function of the gradients, in torch.nn and here."""
    leaves, lengths = make_leaves(case, torch.float64), case.lengths
    results = []
    for module in pair(case, torch.float64):
        values = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
        outputs = flatten(call(module, values, lengths, case.layout == "packed"))
        loss = sum(out.sin().sum() for out in outputs.values() if out.is_floating_point())
        wanted = [*values.values(), *module.parameters()]
        first = grad(loss, wanted, create_graph=True)
        results.append((first, grad(sum(g.square().sum() for g in first), wanted)))
    assert_close_trees(results[1], results[0])


@pytest.mark.parametrize("case", [replace(case, layers=1) for case in FEW_CASES], ids=str)
def test_third_order(case):
    """Of one layer: two have second derivatives of 1e5, whose sines differ by 1e-10 when the input's last bit does."""

    def orders(function):
        leaves = leaves_of(case)
        first = grad(loss_of(function)(*leaves), leaves, create_graph=True)
        second = grad(sum(g.square().sum() for g in first), leaves, create_graph=True)
        return first, second, grad(sum(g.sin().sum() for g in second), leaves)

    assert_close_trees(orders(case.run), orders(case.oracle))


class TestForwardMode:
    @pytest.mark.parametrize("case", ALL_CASES, ids=str)
    def test_jvp(self, case):
        primals, tangents = case.primals(), case.primals(seed=1)
        assert_close_trees(jvp(case.run, primals, tangents), jvp(case.oracle, primals, tangents))

    @pytest.mark.parametrize("case", ALL_CASES, ids=str)
    def test_dual_numbers(self, case):
        primals, tangents = case.primals(), case.primals(seed=1)
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)]
            actual = [forward_ad.unpack_dual(out) for out in case.run(*duals)]
        expected = jvp(case.oracle, primals, tangents)
        assert_close_trees([out.primal for out in actual], expected[0])
        assert_close_trees([out.tangent for out in actual], expected[1])

    @pytest.mark.parametrize("which", ("input", "states", "weights"))
    def test_tangents_of_some(self, which):
        """A dual number among plain tensors."""
        case = LayerCase("lstm", True)
        primals, tangents = case.primals(), case.primals(seed=1)
        chosen = {"input": (0,), "states": (1, 2), "weights": case.of_weights}[which]

        def function(run):
            return lambda *some: run(*[some[chosen.index(i)] if i in chosen else p for i, p in enumerate(primals)])

        some, directions = tuple(primals[i] for i in chosen), tuple(tangents[i] for i in chosen)
        actual = jvp(function(case.run), some, directions)
        assert_close_trees(actual, jvp(function(case.oracle), some, directions))

    @by_layer
    def test_through_a_module(self, layer):
        """Tangents of the weights of a stack, in a backward-free forward; torch.nn in f64 is the measure."""
        case = Case(layer, {"num_layers": 2, "bidirectional": True, "batch_first": True})
        leaves = make_leaves(case, torch.float64)
        results = []
        for module in pair(case, torch.float64):
            weights = {name: weight.detach() for name, weight in module.named_parameters()}
            tangents = {name: weight.cos() for name, weight in weights.items()}

            def function(weights, module=module):
                swapped = functional_call(module, weights, (leaves["input"],))
                return list(flatten(swapped).values())

            results.append(jvp(function, (weights,), (tangents,)))
        assert_close_trees(results[1], results[0])

    @by_case
    def test_over_a_recorded_graph(self, case):
        """Dual numbers while gradients are recorded: the backward of the tangent is the second derivative."""

        def mixed(function):
            leaves = leaves_of(case)
            with forward_ad.dual_level():
                duals = [forward_ad.make_dual(p, t) for p, t in zip(leaves, case.primals(seed=1), strict=True)]
                tangent = forward_ad.unpack_dual(loss_of(function)(*duals)).tangent
            return grad(tangent, leaves)

        assert_close_trees(mixed(case.run), mixed(case.oracle))


class TestFunctionTransforms:
    @pytest.mark.parametrize("outer", (jacfwd, jacrev))
    @pytest.mark.parametrize("inner", (jacfwd, jacrev))
    @by_case
    def test_jacobian_of_jacobian(self, outer, inner, case):
        primals = case.primals()
        argnums = (0, 1, 1 + case.states)

        def pairs(function):
            return outer(inner(loss_of(function), argnums=argnums), argnums=0)(*primals)

        assert_close_trees(pairs(case.run), pairs(case.oracle))

    @by_case
    @pytest.mark.parametrize("transform", (jacfwd, jacrev))
    def test_jacobian_of_every_argument(self, transform, case):
        primals = case.primals()
        everything = tuple(range(len(primals)))
        actual = transform(case.run, argnums=everything)(*primals)
        assert_close_trees(actual, transform(case.oracle, argnums=everything)(*primals))

    @by_layer
    def test_hessian_of_a_module(self, layer):
        case = Case(layer, {"bidirectional": True}, hidden_size=3)
        leaves = make_leaves(case, torch.float64)
        hessians = []
        for module in pair(case, torch.float64):
            weights = {name: weight.detach() for name, weight in module.named_parameters()}

            def loss(weights, module=module):
                return functional_call(module, weights, (leaves["input"],))[0].square().sum()

            # Reverse over reverse: torch.nn's own layers have it in f64, too.
            hessians.append((hessian if module.__module__.startswith("fastrnn") else jacrev_twice)(loss)(weights))
        assert_close_trees(hessians[1], hessians[0])


def jacrev_twice(function):
    return jacrev(jacrev(function))


class TestWhichWay:
    """Formulas are right, so only counting tells whether the kernels were used."""

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_first_backward_is_on_the_kernels(self, kernel):
        case = LayerCase(kernel, True, ragged="packed")
        leaves = leaves_of(case)
        with counted(case.cell) as calls:
            first = grad(loss_of(case.run)(*leaves), leaves, create_graph=True)
            assert dict(calls) == {"plain_forward": 1, "plain_backward": 1}
            grad(sum(g.square().sum() for g in first), leaves)
            assert calls["formula"] > 0
            # Through the first gradients' own upstream, which depends on the outputs, the kernels run once more.
            assert (calls["plain_forward"], calls["plain_backward"]) == (1, 2)

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_create_graph_changes_no_bit(self, kernel):
        case = LayerCase(kernel, True)
        leaves = leaves_of(case)
        plain = grad(loss_of(case.run)(*leaves), leaves)
        recorded = grad(loss_of(case.run)(*leaves), leaves, create_graph=True)
        assert all(map(torch.equal, plain, recorded))
        assert {g.grad_fn.name() for g in recorded} == {"LayerGradFunctionBackward"}

    @pytest.mark.parametrize("kernel", KERNELS)
    def test_gradient_under_torch_func_is_on_the_kernels(self, kernel):
        case = LayerCase(kernel)
        primals = case.primals()
        everything = tuple(range(len(primals)))
        with counted(case.cell) as calls:
            actual = torch.func.grad(loss_of(case.run), argnums=everything)(*primals)
        assert calls["plain_backward"] == 1
        assert calls["formula"] == 0
        assert_close_trees(actual, torch.func.grad(loss_of(case.oracle), argnums=everything)(*primals))

    @by_layer
    def test_of_a_state_alone(self, layer):
        """Gradients that reach nothing but hx, once and twice."""
        module = getattr(fastrnn, layer)(2, 3, 2, dtype=torch.float64).requires_grad_(False)
        theirs = getattr(torch.nn, layer)(2, 3, 2, dtype=torch.float64).requires_grad_(False)
        theirs.load_state_dict(module.state_dict())
        value, state = randn(4, 2, 2, dtype=torch.float64), randn(2, 2, 3, dtype=torch.float64)
        results = []
        for each in (module, theirs):
            hx = state.clone().requires_grad_()
            output, _ = each(value, (hx, hx.cos()) if layer == "LSTM" else hx)
            (first,) = grad(output.square().sum(), hx, create_graph=True)
            results.append((first, *grad(first.square().sum(), hx)))
        assert_close_trees(*results)

    @by_layer
    def test_backward_in_eval_mode(self, layer):
        """cuDNN refuses it. Dropout is off, and the rest as in training."""
        case = Case(layer, {"num_layers": 2, "dropout": 0.5})
        results = []
        for module in pair(case, torch.float64):
            module.eval()
            value = make_leaves(case, torch.float64)["input"] if not results else results[0][0]
            leaf = value.clone().requires_grad_()
            results.append((value, grad(module(leaf)[0].square().sum(), [leaf, *module.parameters()])))
        assert_close_trees(results[1], results[0])


def test_gradient_penalty_example(capsys):
    """Runs as it stands in the README's list, and what it prints falls."""
    import gradient_penalty

    assert gradient_penalty.main(["--steps", "30", "--batch", "16"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    penalties = [float(line.split()[-1]) for line in lines]
    assert penalties[-1] < penalties[0]
