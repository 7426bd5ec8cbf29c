"""What stands between a caller and a GPU's kernels, on fake CUDA tensors: they have a device and a dtype but no values.

So nothing here needs a GPU, and whatever would make the host wait for one raises, as a fake tensor cannot tell a value.
Gradients would need a torch with CUDA; test_cuda_emulated_layers.py has them.
"""

from contextlib import contextmanager

import pytest
import torch
from cases import CELLS, LAYERS
from primals import recorded
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

import fastrnn
from fastrnn import _native
from fastrnn._call import ragged
from fastrnn._ops import schema

pytestmark = pytest.mark.thorough

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, torch.float64, *HALF)

by_class = pytest.mark.parametrize("name", (*LAYERS, *CELLS))
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_half = pytest.mark.parametrize("half", HALF, ids=str)


@pytest.fixture
def cuda(monkeypatch):
    """A build with CUDA kernels, in a torch that lets CUDA tensors be made."""
    monkeypatch.setattr(_native, "cuda_built", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with FakeTensorMode(), torch.no_grad():
        yield


def build(name, dtype=torch.float32, device="cuda:0", **options):
    module = getattr(fastrnn, name)(3, 5, device="meta", **options)
    for key, weight in module.named_parameters():
        fake = torch.empty(weight.shape, dtype=dtype, device=device)
        setattr(module, key, nn.Parameter(fake, requires_grad=False))
    return module


def value_of(name, dtype=torch.float32, device="cuda:0"):
    return torch.empty((4, 2, 3) if name in LAYERS else (2, 3), dtype=dtype, device=device)


def hx_of(name, dtype=torch.float32, device="cuda:0"):
    hx = torch.empty((1, 2, 5) if name in LAYERS else (2, 5), dtype=dtype, device=device)
    return (hx, hx) if name.startswith("LSTM") else hx


def dtypes_of(call):
    return {tensor.dtype for tensor in call["primals"]}


@contextmanager
def autocast(dtype, device="cuda"):
    """torch.autocast itself will not be switched on for a GPU that is not there."""
    before = torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, dtype)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, False)
        torch.set_autocast_dtype(device, before)


class TestDevices:
    @by_class
    def test_a_build_without_cuda_says_so(self, name):
        with FakeTensorMode():
            module, value = build(name), value_of(name)
            with pytest.raises(NotImplementedError, match=rf"{name}.*cuda:0.*without CUDA.*pip install --no-build-iso"):
                module(value)

    @by_class
    @pytest.mark.parametrize("device", ("xpu:0", "mps:0", "hpu:0"))
    def test_other_devices_are_refused(self, cuda, name, device):
        module, value = build(name, device=device), value_of(name, device=device)
        with pytest.raises(NotImplementedError, match=f"{name}.*no kernels for device '{device}'.*'cpu', 'cuda'"):
            module(value)

    @by_class
    @pytest.mark.parametrize("other", ("cpu", "cuda:1"))
    def test_one_device_for_all(self, cuda, name, other):
        module, value = build(name), value_of(name)
        with pytest.raises(RuntimeError, match=f"{name}.*one device.*input is on {other}.*cuda:0"):
            module(value_of(name, device=other))
        with pytest.raises(RuntimeError, match=f"{name}.*one device.*input is on cuda:0.*{other}"):
            build(name, device=other)(value)
        with pytest.raises(RuntimeError, match=f"{name}.*one device.*input is on cuda:0.*{other}"):
            module(value, hx_of(name, device=other))

    @by_class
    @pytest.mark.parametrize("has_hx", (False, True))
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_results_stay_on_it_in_their_dtype(self, cuda, monkeypatch, name, dtype, has_hx):
        """And the kernels get half types as they are."""
        module = build(name, dtype, "cuda:1")
        hx = hx_of(name, dtype, "cuda:1") if has_hx else None
        with recorded(monkeypatch) as calls:
            results = tree_leaves(module(value_of(name, dtype, "cuda:1"), hx))
        assert {(r.device, r.dtype) for r in results} == {(torch.device("cuda:1"), dtype)}
        assert [dtypes_of(call) for call in calls] == [{dtype}]

    @by_layer
    def test_stacked_with_dropout(self, cuda, layer):
        module = build(layer, num_layers=2, bidirectional=True, dropout=0.5)
        output, _ = module(value_of(layer))
        assert (output.shape, output.device) == ((4, 2, 10), torch.device("cuda:0"))


class TestAutocast:
    @by_class
    @by_half
    @pytest.mark.parametrize("given", (torch.float32, *HALF), ids=str)
    def test_all_that_goes_in_is_cast_and_stays(self, cuda, monkeypatch, name, half, given):
        module = build(name)
        with recorded(monkeypatch) as calls, autocast(half):
            results = tree_leaves(module(value_of(name, given), hx_of(name)))
        assert {r.dtype for r in results} == {half}
        assert [dtypes_of(call) for call in calls] == [{half}]

    @by_class
    def test_float64_keeps_out(self, cuda, name):
        with autocast(torch.bfloat16):
            results = tree_leaves(build(name, torch.float64)(value_of(name, torch.float64)))
        assert {r.dtype for r in results} == {torch.float64}

    @by_class
    def test_that_of_the_cpu_is_none_of_ours(self, cuda, monkeypatch, name):
        with recorded(monkeypatch) as calls, autocast(torch.bfloat16, "cpu"):
            results = tree_leaves(build(name)(value_of(name)))
        assert {r.dtype for r in results} == {torch.float32}
        assert [dtypes_of(call) for call in calls] == [{torch.float32}]


@pytest.fixture
def rnn_switch():
    """Sets torch's switch for RNNs in one way or the other; as found, afterwards.

    By what torch.backends.cudnn calls: its own attributes are frozen as soon as a test imports torch.testing._internal.
    """
    before = torch.backends.cudnn.allow_tf32
    yield {
        "for cuDNN": torch._C._set_cudnn_allow_tf32,
        "for RNNs": lambda on: torch._C._set_fp32_precision_setter("cuda", "rnn", "tf32" if on else "ieee"),
    }
    torch._C._set_cudnn_allow_tf32(before)


class TestTf32:
    @by_class
    @pytest.mark.parametrize("way", ("for cuDNN", "for RNNs"))
    @pytest.mark.parametrize("on", (True, False))
    def test_torchs_switch_for_rnns_decides(self, cuda, monkeypatch, rnn_switch, name, way, on):
        rnn_switch[way](on)
        set_to = torch.backends.cudnn.rnn.fp32_precision
        with recorded(monkeypatch) as calls:
            for dtype in DTYPES:
                build(name, dtype)(value_of(name, dtype))
        assert [call["allow_tf32"] for call in calls] == [on, False, False, False]
        assert torch.backends.cudnn.rnn.fp32_precision == set_to

    @by_class
    def test_on_by_default(self, cuda, monkeypatch, name):
        """As in torch.nn, whose switch says yes unless told otherwise."""
        with recorded(monkeypatch) as calls:
            build(name)(value_of(name))
        assert calls[0]["allow_tf32"] == torch.backends.cudnn.allow_tf32 == True  # noqa: E712

    @by_class
    def test_never_on_the_cpu(self, monkeypatch, name):
        with recorded(monkeypatch) as calls:
            getattr(fastrnn, name)(3, 5)(torch.ones(2, 3))
        assert [call["allow_tf32"] for call in calls] == [False]

    @by_layer
    @pytest.mark.parametrize("strict", (True, False))
    @pytest.mark.parametrize("on", (True, False))
    def test_a_graph_keeps_what_was_set(self, cuda, rnn_switch, layer, strict, on):
        rnn_switch["for cuDNN"](on)  # torch 2.13 cannot trace anything while the two kinds of switch disagree
        program = torch.export.export(build(layer), (value_of(layer),), strict=strict)
        (call,) = (node for node in program.graph.nodes if "fastrnn" in str(node.target))
        names = [argument.name for argument in call.target._schema.arguments]
        assert dict(zip(names, call.args, strict=True))["allow_tf32"] is on


class TestLengths:
    @by_layer
    @pytest.mark.parametrize("place", ("cuda:0", "cpu"))
    @pytest.mark.parametrize("dtype", (torch.int64, torch.int32), ids=str)
    def test_nobody_waits(self, cuda, monkeypatch, layer, place, dtype):
        """Row counts lie where the lengths lie: on the CPU the kernels leave rows out, and on a GPU nobody looks."""
        if place == "cpu":  # whose values are looked at, and a fake has none
            monkeypatch.setattr(ragged, "check_lengths", lambda *_: None)
        module, lengths = build(layer, bidirectional=True), torch.empty(2, dtype=dtype, device=place)
        with recorded(monkeypatch) as calls:
            results = tree_leaves(module(value_of(layer), lengths=lengths))
        assert {r.device for r in results} == {torch.device("cuda:0")}
        (sizes,) = (call["batch_sizes"] for call in calls)
        assert (sizes.device, sizes.dtype, sizes.shape) == (torch.device(place), torch.int64, (4,))

    @by_layer
    def test_from_the_cpu_not_into_a_cuda_graph(self, cuda, monkeypatch, layer):
        """Its replays would copy them from memory that is somebody else's by then."""
        monkeypatch.setattr(ragged, "check_lengths", lambda *_: None)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        module, value = build(layer), value_of(layer)
        module(value, lengths=torch.empty(2, dtype=torch.int64, device="cuda:0"))
        with pytest.raises(RuntimeError, match=r"lengths on the CPU.*CUDA graph.*lengths\.to"):
            module(value, lengths=torch.empty(2, dtype=torch.int64))


REASON = "the recurrent weights stay on the chip for the whole sequence"
WORDS = _native.plan_words
PLAN = WORDS["path"].index("persistent"), 90, 16, 16, 256, -1, -1, -1, [WORDS["reason"].index(REASON)]


class TestExplain:
    @pytest.fixture
    def asked(self, cuda, monkeypatch):
        """The questions put to the op that only a build with CUDA has."""
        questions, names = [], [argument.name for argument in schema.plan._schema.arguments]

        def plan(*arguments):
            questions.append(dict(zip(names, arguments, strict=True)))
            return PLAN

        monkeypatch.setattr(schema, "plan", plan)
        return questions

    @by_class
    def test_a_row_of_the_gpus_plan(self, asked, name):
        row, backward = fastrnn.explain(build(name), value_of(name)).rows
        assert (row.device, row.pass_, row.reason) == ("cuda:0", "forward", REASON)
        assert (row.path, row.isa, row.tile, row.threads) == ("persistent", "sm_90", "16x16", 256)
        assert backward.path == "none"  # fakes record no gradient
        (facts,) = asked
        assert facts["cell"] == {"RNN": "rnn_tanh", "LST": "lstm", "GRU": "gru"}[name[:3]]
        input, hx, *_ = facts["primals"]
        assert (input.dtype, input.device) == (torch.float32, torch.device("cuda:0"))
        assert (input.shape, hx.shape) == (((4, 2, 3), (1, 2, 5)) if name in LAYERS else ((2, 3), (2, 5)))
        assert not any(facts[name] for name in ("bidirectional", "extended", "backward"))

    @by_layer
    @pytest.mark.parametrize(
        ("options", "ragged", "layers"), (({}, False, 3), ({"dropout": 0.5}, False, 1), ({}, True, 3)), ids=str
    )
    def test_layers_of_one_call(self, asked, layer, options, ragged, layers):
        """That may run at the same time."""
        lengths = torch.empty(2, dtype=torch.int64, device="cuda:0") if ragged else None
        fastrnn.explain(build(layer, num_layers=3, **options), value_of(layer), lengths=lengths)
        assert [facts["primals"][1].shape[0] for facts in asked] == [layers] * 3
        assert all((facts["batch_sizes"] is not None) == ragged for facts in asked)

    @by_class
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_precision(self, asked, rnn_switch, name, dtype):
        module, value, word = build(name, dtype), value_of(name, dtype), str(dtype).removeprefix("torch.")
        for on in (True, False):
            rnn_switch["for RNNs"](on)
            expected = f"{word}, sums in float32" if dtype in HALF else word
            if dtype == torch.float32 and on:
                expected = "float32 on TF32"
            assert fastrnn.explain(module, value).rows[0].precision == expected
            assert asked[-1]["allow_tf32"] == (dtype == torch.float32 and on)
            assert asked[-1]["primals"][0].dtype == dtype
        with forward_ad.dual_level():
            row = fastrnn.explain(module, value).rows[0]
        assert (row.path, row.threads) == ("formula", 0)
        assert row.precision == (f"{word} in float32" if dtype in HALF else word)

    @by_class
    @by_half
    def test_precision_under_autocast(self, asked, name, half):
        with autocast(half):
            row = fastrnn.explain(build(name), value_of(name)).rows[0]
        word = str(half).removeprefix("torch.")
        assert row.precision == f"{word}, sums in float32"
        assert asked[-1]["primals"][0].dtype == half
