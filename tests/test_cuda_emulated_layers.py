"""Modules and derivatives on the CUDA ops, whose kernels run on the emulated GPU (tests/cuda).

The ops take the places of the CPU's, so tensors of the CPU go all the way that a GPU's tensors go: modules, autograd,
torch.func, autocast. What kernels do to memory, and under every schedule, is tested without torch.
"""

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from cases import (
    CELLS,
    KERNELS,
    LAYERS,
    Case,
    assert_same,
    call,
    check_parity,
    exact_for_relu_,
    make_leaves,
    option_product,
    outputs_and_gradients,
    randn,
)
from primals import RAGGED, LayerCase, assert_close_trees, counted, loss_of, recorded
from test_lengths import both as layers_in_f64
from test_lengths import packed as on_packed
from test_lengths import padding, with_lengths
from test_vmap import batched, dims_of, looped
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import fastrnn
from fastrnn._call import precision, ragged
from fastrnn._ops import schema

sys.path.insert(0, str(Path(__file__).parent / "cuda"))

import emulated_library
from emulation.emulator import cuda_include

HALF = (torch.bfloat16, torch.float16)
# Streamed are f64, projections, and hidden sizes that blocks of 16 units do not divide.
STREAMED, ON_CHIP = 5, 16
PATHS = ("streamed", "persistent", "cluster")

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_on_chip = pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel != "lstm_proj"])
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_half = pytest.mark.parametrize("half", HALF, ids=("bf16", "f16"))
both_ways = pytest.mark.parametrize("bidirectional", (False, True))


def build_ahead(quick):
    if cuda_include():
        emulated_library.build_library()


@pytest.fixture(scope="module")
def library():
    if cuda_include() is None:
        pytest.skip("CUDA's headers were not found: install its toolkit, or set CUDA_HOME")
    return emulated_library.load()


@pytest.fixture(autouse=True)
def gpu(monkeypatch, library):
    """The CUDA ops in place of the CPU's, and the rules for tensors of a GPU."""
    for replacement in emulated_library.replacements():
        monkeypatch.setattr(*replacement)
    monkeypatch.setenv("FASTRNN_CUDA_VERIFY", "0")  # as test_cuda_verification.py does


@pytest.fixture
def passes(library):
    """How many passes took each path since the test began, once it is called."""

    def count():
        return Counter({path: library.fastrnn_emulated_passes(path.encode()) for path in PATHS})

    before = count()
    return lambda: count() - before


@pytest.fixture
def tf32(monkeypatch):
    monkeypatch.setattr(precision, "allows_tf32", lambda input: input.dtype == torch.float32)


@pytest.fixture(params=(False, True), ids=("sizes on the CPU", "sizes on the GPU"))
def device_sizes(request, monkeypatch):
    """Whether the ops may not read batch sizes on the host."""
    monkeypatch.setenv("FASTRNN_EMULATE_DEVICE_SIZES", str(int(request.param)))
    return request.param


def case_of(kernel, **how):
    layer, options = KERNELS[kernel]
    sizes = {name: how.pop(name) for name in ("seq", "batch", "input_size", "hidden_size") if name in how}
    return Case(layer, options | how, **sizes)


def rounded_case(kernel, **how):
    """A case for types of some 10 bits, which hold every value of two steps of cases.exact_for_relu_."""
    return case_of(kernel, **how | ({"num_layers": 1, "seq": 2} if kernel == "rnn_relu" else {}))


def stored_tolerance(ulp, depth):
    """The relative difference from exact results, where what is stored or multiplied has this ulp and sums are better.

    At each step half an ulp is lost in four places: x W_ih, h, the values saved for backward, and their gradients.
    That adds up as in cases.tolerance, whose 4 covers the largest error here too.
    """
    return 4 * ulp / 2 * (4 * 2 * depth) ** 0.5


def check_against_f64(case, dtype, tolerance, run=call, run_theirs=call):
    """A layer on the emulated GPU, its outputs and gradients, against torch.nn in f64 on the same numbers."""
    ours = case.build(dtype, fastrnn)
    if case.relu:
        exact_for_relu_(ours)
    theirs = case.build(torch.float64)
    theirs.load_state_dict(ours.state_dict())
    leaves = make_leaves(case, dtype)
    actual = outputs_and_gradients(ours, leaves, run)
    exact = {name: leaf.double() for name, leaf in leaves.items()}
    expected = outputs_and_gradients(theirs, exact, run_theirs, rounded_to=dtype)
    assert {value.dtype for value in actual.values()} == {dtype}
    actual = {name: value.double() for name, value in actual.items()}
    if case.relu and dtype == torch.bfloat16:  # whose 8 bits don't hold all of it: rounding decides where relu is flat
        actual, expected = ({n: v for n, v in r.items() if "gradient" not in n} for r in (actual, expected))
    assert_same(expected, actual, tolerance)


class TestAgainstTorch:
    """Streamed: the way that takes any call."""

    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("f32", "f64"))
    def test_every_option(self, layer, dtype):
        layouts = itertools.cycle(("batched", "unbatched", "packed", "packed_unsorted", "batched"))
        has_hx = itertools.cycle((True, True, False))
        for options in option_product(layer):
            check_parity(Case(layer, options, next(layouts), next(has_hx), hidden_size=STREAMED), dtype)

    @by_kernel
    @pytest.mark.parametrize("sizes", ((1, 1, 1, 3), (7, 1, 4, 9), (2, 17, 3, 33)), ids=str)
    def test_sizes(self, kernel, sizes):
        sizes = dict(zip(("seq", "batch", "input_size", "hidden_size"), sizes, strict=True))
        check_parity(case_of(kernel, bidirectional=True, **sizes), torch.float32)

    @pytest.mark.parametrize("cell", CELLS)
    @pytest.mark.parametrize("has_hx", (False, True))
    def test_cells(self, cell, has_hx):
        ours = getattr(fastrnn, cell)(3, 5, dtype=torch.float64)
        theirs = getattr(nn, cell)(3, 5, dtype=torch.float64)
        theirs.load_state_dict(ours.state_dict())
        leaves = {"input": randn(2, 3, dtype=torch.float64)}
        if has_hx:
            leaves |= {name: randn(2, 5, dtype=torch.float64) for name in ("hx", "cx")[: 1 + (cell == "LSTMCell")]}
        assert_close_trees(*(outputs_and_gradients(module, leaves, call) for module in (ours, theirs)))

    def test_no_rows(self):
        output, (hy, cy) = fastrnn.LSTM(3, 5)(torch.ones(4, 0, 3))
        assert (output.shape, hy.shape, cy.shape) == ((4, 0, 5), (1, 0, 5), (1, 0, 5))

    @by_layer
    def test_dropout(self, layer):
        """Between layers, drawn by torch: all of it, the one share that has no chance in it."""
        check_parity(Case(layer, {"num_layers": 2, "dropout": 1.0}), torch.float64)


class TestOnChip:
    """One launch for the whole sequence; batches of two tiles, of which one is not full, and of a part of one."""

    @pytest.fixture(autouse=True, params=("persistent", "cluster"))
    def _both_passes_were(self, monkeypatch, request, passes):
        monkeypatch.setenv("FASTRNN_CUDA_PATH", request.param)
        yield
        assert passes()[request.param] >= 2
        assert set(passes()) == {request.param}

    @by_on_chip
    @both_ways
    @by_half
    def test_half_types(self, kernel, bidirectional, half):
        case = rounded_case(kernel, bidirectional=bidirectional, num_layers=2, hidden_size=ON_CHIP, seq=3, batch=17)
        check_against_f64(case, half, stored_tolerance(torch.finfo(half).eps, case.depth))

    @by_on_chip
    @both_ways
    def test_tf32(self, tf32, kernel, bidirectional):
        case = rounded_case(kernel, bidirectional=bidirectional, hidden_size=2 * ON_CHIP, seq=4, batch=5)
        check_against_f64(case, torch.float32, stored_tolerance(2**-10, case.depth))

    @by_layer
    @by_half
    def test_without_bias_or_state(self, layer, half):
        case = Case(layer, {"bias": False, "batch_first": True}, has_hx=False, hidden_size=ON_CHIP)
        check_against_f64(case, half, stored_tolerance(torch.finfo(half).eps, case.depth))

    @by_layer
    @by_half
    def test_saved_tensors_come_back_misaligned(self, layer, half):
        """From a hook that hands back views, which start two bytes off what 16-byte copies need."""
        case = Case(layer, {}, hidden_size=ON_CHIP, batch=17)
        module, leaves = case.build(half, fastrnn), make_leaves(case, half)
        expected = outputs_and_gradients(module, leaves, call)
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, misaligned):
            actual = outputs_and_gradients(module, leaves, call)
        assert all(torch.equal(actual[name], value) for name, value in expected.items())


def misaligned(tensor):
    """The same values one element behind where a tensor of torch's begins."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.thorough
class TestWavefront:
    """Layers that run at once, a part of the sequence behind one another."""

    LAYERS, STEPS = 3, 130  # of which two parts are made

    @pytest.fixture(params=("persistent", "cluster"))
    def path(self, monkeypatch, request):
        monkeypatch.setenv("FASTRNN_CUDA_PATH", request.param)
        return request.param

    def module(self, layer, **options):
        return getattr(fastrnn, layer)(5, ON_CHIP, self.LAYERS, **options)

    @by_layer
    def test_like_torch_nn(self, passes, path, layer):
        check_parity(
            Case(layer, {"num_layers": self.LAYERS}, hidden_size=ON_CHIP, seq=self.STEPS, batch=3), torch.float32
        )
        assert passes() == {path: 2 * (2 + self.LAYERS - 1)}

    @by_layer
    def test_inference_computes_as_training_does(self, path, layer):
        module, value = self.module(layer), randn(self.STEPS, 3, 5)
        with torch.no_grad():
            expected = tree_leaves(module(value))
        assert all(map(torch.equal, tree_leaves(module(value)), expected))

    @pytest.mark.parametrize(
        ("options", "steps"), (({"bidirectional": True}, 130), ({"dropout": 0.5}, 130), ({}, 127)), ids=str
    )
    def test_otherwise_layers_run_in_turn(self, passes, path, options, steps):
        self.module("GRU", **options)(randn(steps, 3, 5))
        assert passes() == {path: self.LAYERS}

    def test_lengths_in_turn(self, passes, path):
        self.module("GRU")(randn(self.STEPS, 3, 5), lengths=torch.tensor([130, 2, 40]))
        assert passes() == {path: self.LAYERS}


@pytest.mark.thorough
class TestTf32:
    @by_on_chip
    def test_backward_computes_as_forward_did(self, monkeypatch, kernel):
        """Whatever torch's switch says by then, and again when backward is differentiated."""
        case, allowed = LayerCase(kernel), [True]
        monkeypatch.setattr(precision, "allows_tf32", lambda input: allowed[0])
        leaves = [p.requires_grad_() for p in case.primals()]
        with recorded(monkeypatch) as calls:
            loss = loss_of(case.run)(*leaves)
            allowed[0] = False
            first = grad(loss, leaves, create_graph=True)
            grad(sum(g.square().sum() for g in first), leaves)
        assert [(call["allow_tf32"], "reserve" in call) for call in calls] == [
            (True, False),
            (True, True),
            (True, True),
        ]

    @by_layer
    @pytest.mark.parametrize("path", PATHS)
    def test_tf32_only_where_it_is_allowed(self, monkeypatch, passes, layer, path):
        """Else float32 is float32, on whatever path, and as near to torch.nn as on the CPU."""
        monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
        check_parity(Case(layer, {"bidirectional": True}, hidden_size=2 * ON_CHIP, batch=17), torch.float32)
        assert set(passes()) == {path}


@by_kernel
@by_half
def test_half_types_streamed(kernel, half):
    case = rounded_case(kernel, bidirectional=True, num_layers=2)
    check_against_f64(case, half, stored_tolerance(torch.finfo(half).eps, case.depth))


@pytest.mark.thorough
class TestLengths:
    """Sizes that the host knows, and sizes that only the GPU knows."""

    @by_layer
    @both_ways
    @pytest.mark.parametrize("batch_first", (False, True))
    def test_equal_to_packing(self, device_sizes, layer, bidirectional, batch_first):
        lengths = torch.tensor([2, 6, 1, 4, 3])
        options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first}
        ours, theirs, leaves = layers_in_f64(Case(layer, options, seq=6, batch=5))
        actual = outputs_and_gradients(ours, leaves, with_lengths(lengths))
        assert_close_trees(actual, outputs_and_gradients(theirs, leaves, on_packed))

    @by_layer
    @by_half
    @pytest.mark.parametrize("hidden", (STREAMED, ON_CHIP))
    @pytest.mark.parametrize("ragged", ("sizes on the CPU", "sizes on the GPU", "packed"))
    def test_half_types(self, monkeypatch, passes, layer, half, hidden, ragged):
        monkeypatch.setenv("FASTRNN_EMULATE_DEVICE_SIZES", str(int(ragged == "sizes on the GPU")))
        run = on_packed if ragged == "packed" else with_lengths(torch.tensor([2, 6, 1, 4, 3]))
        case = Case(layer, {"bidirectional": True}, seq=6, batch=5, hidden_size=hidden)

        check_against_f64(case, half, stored_tolerance(torch.finfo(half).eps, case.depth), run, on_packed)
        # A launch for both directions, or one for each pass of them.
        assert passes() == ({"cluster": 2} if hidden == ON_CHIP else {"streamed": 4})

    @by_layer
    @pytest.mark.parametrize("dtype", (torch.float64, torch.float16), ids=("f64", "f16"))
    def test_padding_is_never_read(self, device_sizes, layer, dtype):
        """Nor is the state of an empty row changed, by so much as a bit."""
        case = Case(layer, {"bidirectional": True}, seq=6, batch=5, hidden_size=ON_CHIP)
        module, leaves = case.build(dtype, fastrnn), make_leaves(case, dtype)
        lengths = torch.tensor([2, 0, 1, 6, 3])
        results = []
        for fill in (0.0, float("nan")):
            filled = leaves["input"].masked_fill(padding(module, lengths).unsqueeze(2), fill)
            results.append(outputs_and_gradients(module, leaves | {"input": filled}, with_lengths(lengths)))
        for name, value in results[0].items():
            assert torch.equal(results[1][name], value), name
        final = results[0]["final[0]" if layer == "LSTM" else "final"]
        assert torch.equal(final[:, 1], leaves["hx"][:, 1])
        assert results[0]["output"][padding(module, lengths)].eq(0).all()

    @by_layer
    def test_on_the_gpu_nobody_looks_at_them(self, monkeypatch, layer):
        """A whole training step asks no tensor for a value, and what is out of range is clamped."""
        monkeypatch.setenv("FASTRNN_EMULATE_DEVICE_SIZES", "1")
        monkeypatch.setattr(ragged, "check_lengths", lambda *_: None)
        module, value = getattr(fastrnn, layer)(3, ON_CHIP, 2), randn(4, 3, 3)
        with Questions() as questions:
            output, _ = module(value, lengths=torch.tensor([9, 2, -3]))
            output.square().sum().backward()
        assert questions.asked == 0
        assert torch.equal(output, module(value, lengths=torch.tensor([4, 2, 0]))[0])

    @by_layer
    def test_jagged(self, layer):
        rows = [randn(length, 3, dtype=torch.float64) for length in (3, 1, 5)]
        module = getattr(fastrnn, layer)(3, 5, dtype=torch.float64)
        output = module(torch.nested.nested_tensor(rows, layout=torch.jagged))[0]
        for ours, row in zip(output.unbind(), rows, strict=True):
            assert_close_trees(ours, module(row)[0])

    @by_layer
    def test_jagged_whose_longest_is_known(self, monkeypatch, layer):
        """Then nobody waits, as with lengths on the GPU."""
        monkeypatch.setenv("FASTRNN_EMULATE_DEVICE_SIZES", "1")
        monkeypatch.setattr(ragged, "check_lengths", lambda *_: None)
        layers = nn.ModuleList([getattr(fastrnn, layer)(size, ON_CHIP) for size in (3, ON_CHIP)])
        offsets = torch.tensor([0, 3, 4, 9])
        value = torch.nested.nested_tensor_from_jagged(randn(9, 3), offsets, max_seqlen=5)
        with Questions() as questions:
            for module in layers:
                value, _ = module(value)
            value.values().square().sum().backward()
        assert questions.asked == 0


class Questions(TorchDispatchMode):
    """Counts how often a tensor is asked for its value, which on a GPU makes the host wait."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


GRADCHECKED = [
    LayerCase(kernel, ragged is not None, True, ragged, layers=2 if ragged == "packed" else 1)
    for kernel in KERNELS
    for ragged in RAGGED
]


@pytest.mark.thorough
class TestDerivatives:
    @pytest.mark.parametrize("case", GRADCHECKED, ids=str)
    def test_gradcheck(self, case):
        assert gradcheck(case.run, [p.requires_grad_() for p in case.primals()], fast_mode=True)

    @by_kernel
    def test_gradgradcheck(self, kernel):
        """And the first backward is on the kernels."""
        case = LayerCase(kernel, ragged="padded")
        leaves = [p.requires_grad_() for p in case.primals()]
        with counted(case.cell) as calls:
            grad(loss_of(case.run)(*leaves), leaves, create_graph=True)
        assert dict(calls) == {"plain_forward": 1, "plain_backward": 1}
        assert gradgradcheck(case.run, leaves, fast_mode=True)

    @by_layer
    @by_half
    def test_second_gradients_of_half_types(self, layer, half):
        """By formulas that compute in float32; through the first gradients, which were stored in the half type."""
        results = []
        case = Case(layer, {}, hidden_size=ON_CHIP)
        ours, leaves = case.build(half, fastrnn), make_leaves(case, half)
        theirs = case.build(torch.float64)
        theirs.load_state_dict(ours.state_dict())
        for module, dtype in ((ours, half), (theirs, torch.float64)):
            value = leaves["input"].to(dtype).requires_grad_()
            (first,) = grad(module(value)[0].square().sum(), value, create_graph=True)
            second = grad(first.square().sum(), [value, *module.parameters()])
            assert {g.dtype for g in (first, *second)} == {dtype}
            results.append({str(i): g.detach().double() for i, g in enumerate((first, *second))})
        assert_same(results[1], results[0], 2 * stored_tolerance(torch.finfo(half).eps, case.depth))

    @by_layer
    @by_half
    def test_formulas_compute_half_types_in_float32(self, layer, half):
        """Forward-mode AD of a half type: that of float32 on the same numbers, rounded at the very end."""
        module = getattr(fastrnn, layer)(3, 5, dtype=half)
        value, tangent = randn(4, 2, 3, dtype=half), randn(4, 2, 3, dtype=half)
        results = []
        for dtype in (half, torch.float32):
            module.to(dtype)
            results.append(jvp(lambda value: module(value)[0], (value.to(dtype),), (tangent.to(dtype),)))
        for ours, exact in zip(*results, strict=True):
            assert torch.equal(ours, exact.to(half))

    @pytest.mark.parametrize("ragged", RAGGED)
    @by_kernel
    def test_per_sample_gradients(self, kernel, ragged):
        """One call each way; the gradients of the weights come by groups."""
        case = LayerCase(kernel, ragged=ragged)
        dims = dims_of(case, 0, 1)
        arguments = batched(case, dims)
        everything = tuple(range(len(arguments)))
        with counted(case.cell) as calls:
            actual = vmap(torch.func.grad(loss_of(case.run), argnums=everything), in_dims=dims)(*arguments)
        assert dict(calls) == {"plain_infer": 1, "plain_forward": 1, "plain_backward": 1}
        assert_close_trees(actual, looped(torch.func.grad(loss_of(case.oracle), argnums=everything), dims, arguments))

    @by_kernel
    def test_vmap_over_weights(self, kernel):
        case = LayerCase(kernel, True)
        dims = dims_of(case, weights=0)
        arguments = batched(case, dims)
        assert_close_trees(vmap(case.run, in_dims=dims)(*arguments), looped(case.oracle, dims, arguments))

    @by_kernel
    @pytest.mark.parametrize("dtype", (torch.float64, torch.float32, *HALF), ids=str)
    def test_fakes_tell_what_the_ops_return(self, kernel, dtype):
        """Shapes and dtypes, the reserve's too, of both passes."""
        case = LayerCase(kernel, True)
        arguments = case.cell, [primal.to(dtype) for primal in case.primals()], None, True, False
        assert_told("plain_infer", (*arguments, None))
        *outputs, reserve = assert_told("plain_forward", arguments)
        assert_told("plain_backward", (*arguments, outputs, outputs[0], reserve, True, True, 0))


def assert_told(name, arguments):
    """The op's results, which have the shapes and dtypes that the fake kernel of that name tells."""
    results = getattr(schema, name)(*arguments)
    meta = tree_map(lambda a: a.to("meta") if isinstance(a, torch.Tensor) else a, arguments)
    told = getattr(torch.ops.fastrnn, f"_{name}")(*meta)
    assert [(t.shape, t.dtype) for t in tree_leaves(told)] == [(t.shape, t.dtype) for t in tree_leaves(results)]
    return results


@pytest.mark.thorough
class TestAutocast:
    @pytest.mark.parametrize("name", (*LAYERS, *CELLS))
    @by_half
    def test_computes_in_its_dtype(self, name, half):
        """What a module of the half type computes, to the bit; gradients come in the leaves' own dtype."""
        module = getattr(fastrnn, name)(3, ON_CHIP)
        halved = getattr(fastrnn, name)(3, ON_CHIP, dtype=half)
        halved.load_state_dict(module.state_dict())
        value = randn(*((4,) if name in LAYERS else ()), 2, 3)
        leaf = value.clone().requires_grad_()
        with torch.autocast("cpu", dtype=half):
            results = tree_leaves(module(leaf))
        for ours, expected in zip(results, tree_leaves(halved(value.to(half))), strict=True):
            assert ours.dtype == half
            assert torch.equal(ours, expected)
        gradients = grad(sum(r.float().sin().sum() for r in results), [leaf, *module.parameters()])
        assert {g.dtype for g in gradients} == {torch.float32}
