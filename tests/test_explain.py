"""fastrnn.explain: what it says of each pass, and through it, which path runs for which call."""

import os

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import Explanation
from fastrnn._explanation import Row

ISAS = ("sse2", "avx2", "avx512")


def best_isa():
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(torch.backends.cpu.get_cpu_capability(), "sse2")


def expected_isa():
    return os.environ.get("FASTRNN_ISA") or best_isa()


@pytest.mark.isa
@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("f32", "f64"))
def test_rows(name, dtype):
    module = getattr(fastrnn, name)(4, 33, dtype=dtype)
    explanation = fastrnn.explain(module, torch.randn(5, 4, dtype=dtype))
    assert [(r.layer, r.direction, r.pass_) for r in explanation.rows] == [
        (0, "forward", "forward"),
        (0, "forward", "backward"),
    ]
    for row in explanation.rows:
        assert row.device == "cpu"
        assert row.path == "fused"
        assert row.isa == expected_isa()
        assert row.tile
        assert row.threads == 1
        assert row.precision == str(dtype).removeprefix("torch.")
        # An Elman cell needs nothing beside the output.
        assert (row.reserve_bytes > 0) == (not name.startswith("RNN"))
        assert row.reason


def test_a_row_for_each_layer_direction_and_pass():
    module = fastrnn.LSTM(4, 8, num_layers=3, bidirectional=True)
    rows = fastrnn.explain(module, torch.randn(5, 2, 4)).rows
    assert [(r.layer, r.direction, r.pass_) for r in rows] == [
        (layer, direction, pass_)
        for layer in range(3)
        for direction in ("forward", "reverse")
        for pass_ in ("forward", "backward")
    ]


def page_of(layer, batch=2, **options):
    explanation = fastrnn.explain(getattr(fastrnn, layer)(4, 8, **options), torch.randn(5, batch, 4))
    return explanation, str(explanation).splitlines()


@pytest.mark.parametrize("layer", LAYERS)
def test_page(layer):
    """The verdict, what holds for all passes, and a line for rows that differ in nothing but their place."""
    explanation, (verdict, facts, gap, heading, *lines) = page_of(layer, num_layers=3, bidirectional=True)
    first = explanation.rows[0]
    assert len({(row.path, row.threads, row.reason) for row in explanation.rows}) == 1
    assert verdict == f"fused, 1 thread ({first.reason})"
    for word in ("cpu", first.isa, first.tile, "float32"):
        assert word in facts
    assert not gap
    assert heading.split() == ["layer", "direction", "pass", "path", "threads", "weights", "products", "reserve"]
    assert [line.split()[:5] for line in lines] == [
        ["0-2", "both", "forward", "fused", "1"],
        ["0-2", "both", "backward", "fused", "1"],
    ]


def test_page_says_where_passes_differ():
    layer = fastrnn.LSTM(4, 8, 3)
    with torch.no_grad():
        text = str(fastrnn.explain(layer, torch.randn(5, 2, 4), return_states=True))
    assert "layer 0-1, forward: fused, 1 thread" in text
    assert "layer 2, forward: fused with extras, 1 thread" in text
    assert "layer 0-2, backward: none (no gradient" in text
    assert "kept from forward" not in text


@pytest.mark.parametrize(("hidden_size", "unit"), [(1, "B"), (64, "kB"), (256, "MB")])
def test_reserve_has_a_unit(hidden_size, unit):
    explanation = fastrnn.explain(fastrnn.LSTM(4, hidden_size), torch.randn(200, 5, 4)[: max(1, hidden_size // 2)])
    scale = {"B": 1, "kB": 1e3, "MB": 1e6}[unit]
    kept = explanation.rows[0].reserve_bytes
    assert f"{kept / scale:.3g} {unit} kept from forward for backward" in str(explanation)
    assert str(explanation).splitlines()[-1].endswith(f"{kept / scale:.3g} {unit}")


def test_page_is_narrow():
    """With every long word that there is."""
    how = "fused with extras", "avx512", "8x48", "packed ahead", "ahead", "plain loop", 256
    rows = [
        Row(layer, direction, pass_, "cuda:0", *how, "bfloat16 on bfloat16 weights", 10**7, f"{'why ' * 30}{layer}")
        for layer in range(3)
        for direction in ("forward", "reverse")
        for pass_ in ("forward", "backward")
    ]
    page = str(Explanation(tuple(rows)))
    assert max(map(len, page.splitlines())) <= 100
    assert "256 threads a block" in page


def rows_of(kernel, seq, batch, hidden, input_size=3, **more):
    layer, options = KERNELS[kernel]
    module = getattr(fastrnn, layer)(input_size, hidden, **options | more)
    return fastrnn.explain(module, torch.randn(seq, batch, input_size)).rows


def plans_of(*args, **kwargs):
    return {(row.threads, row.reason) for row in rows_of(*args, **kwargs)}


def threads_of(*args, **kwargs):
    return {threads for threads, _ in plans_of(*args, **kwargs)}


@pytest.mark.parametrize("kernel", KERNELS)
def test_threads(kernel):
    """Small work stays on one thread; enough rows, or enough hidden units, are shared out."""
    torch.set_num_threads(2)
    assert threads_of(kernel, seq=3, batch=2, hidden=5) == {1}
    assert threads_of(kernel, seq=100, batch=16, hidden=100) == {2}
    if kernel != "lstm_proj":
        assert threads_of(kernel, seq=40, batch=1, hidden=250) == {2}
    torch.set_num_threads(1)
    assert threads_of(kernel, seq=100, batch=16, hidden=100) == {1}


OWN_ROWS = "each thread runs its own batch rows"


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_of_their_own(kernel):
    """Of light weights one row a thread is enough; heavier ones want four, or have their units divided."""
    torch.set_num_threads(2)
    assert plans_of(kernel, seq=1000, batch=2, hidden=40) == {(2, OWN_ROWS)}
    assert plans_of(kernel, seq=100, batch=8, hidden=100) == {(2, OWN_ROWS)}
    assert OWN_ROWS not in str(plans_of(kernel, seq=1000, batch=1, hidden=40))
    if kernel != "lstm_proj":
        assert OWN_ROWS not in str(plans_of(kernel, seq=100, batch=7, hidden=200))
    torch.set_num_threads(4)
    assert OWN_ROWS not in str(plans_of(kernel, seq=1000, batch=3, hidden=40))


def input_product(*args, **kwargs):
    rows = rows_of(*args, **kwargs)
    assert {row.input_product for row in rows if row.pass_ == "backward"} == {""}
    (forward,) = {row.input_product for row in rows if row.pass_ == "forward"}
    return forward


@pytest.mark.parametrize("kernel", KERNELS)
def test_input_product(kernel, input_steps):
    """The time loop makes it where the weights are light in every layer, but in a short call; a team takes more."""
    input_steps(-1)
    assert input_product(kernel, seq=100, batch=2, hidden=64, input_size=64) == "in the loop"
    assert input_product(kernel, seq=4, batch=1, hidden=64, input_size=64) == "ahead"
    assert input_product(kernel, seq=100, batch=2, hidden=64, input_size=1000) == "ahead"
    if kernel != "lstm_proj":  # whose layers above have as narrow an input
        assert input_product(kernel, seq=100, batch=2, hidden=300, input_size=4, num_layers=2) == "ahead"
    torch.set_num_threads(2)
    assert input_product(kernel, seq=100, batch=8, hidden=64, input_size=1000) == "in the loop"
    assert input_product(kernel, seq=100, batch=8, hidden=64, input_size=5000) == "ahead"
    torch.set_num_threads(1)
    input_steps(0)
    assert input_product(kernel, seq=100, batch=2, hidden=64, input_size=64) == "ahead"
    input_steps(2)
    assert input_product(kernel, seq=100, batch=2, hidden=64, input_size=1000) == "in the loop"


OWN_DIRECTION = "each direction runs on a thread of its own"


def test_large_gemms(large_gemms):
    """Whose code multiplies the input by w_ih, and what the gradient of w_hh is made of."""
    layer, input = fastrnn.LSTM(1500, 100), torch.randn(60, 30, 1500)
    name = "panels" if large_gemms else "torch.mm"
    rows = fastrnn.explain(layer, input).rows
    assert [row.gemms for row in rows] == [name, name]


@pytest.mark.parametrize("kernel", KERNELS)
def test_directions_on_their_own_threads(kernel):
    """Where a second thread has no rows of its own, it has the other direction, whose weights must fit its cache."""
    torch.set_num_threads(2)
    small = {"seq": 1000, "batch": 3, "hidden": 40}
    assert plans_of(kernel, **small, bidirectional=True) == {(1, OWN_DIRECTION)}
    assert plans_of(kernel, seq=400, batch=1, hidden=250, bidirectional=True) == {(1, OWN_DIRECTION)}
    assert OWN_DIRECTION not in str(plans_of(kernel, **small))
    assert OWN_DIRECTION not in str(plans_of(kernel, seq=3, batch=2, hidden=5, bidirectional=True))
    assert threads_of(kernel, seq=100, batch=16, hidden=100, bidirectional=True) == {2}
    if kernel != "lstm_proj":
        assert threads_of(kernel, seq=40, batch=1, hidden=1200, bidirectional=True) == {2}
    torch.set_num_threads(4)
    assert plans_of(kernel, **small, bidirectional=True) == {(1, OWN_DIRECTION)}
    assert plans_of("lstm", seq=40, batch=1, hidden=250, bidirectional=True) == {
        (4, "each thread runs its own hidden units, meeting at every step")
    }
    torch.set_num_threads(1)
    assert OWN_DIRECTION not in str(plans_of(kernel, **small, bidirectional=True))


WAVEFRONT = "layers run as a wavefront, each on one thread"


@pytest.mark.parametrize("kernel", KERNELS)
def test_layers_as_a_wavefront(kernel):
    """Where threads have neither rows nor directions of their own, and nothing comes between the layers."""
    torch.set_num_threads(2)
    small = {"seq": 2000, "batch": 3, "hidden": 48}
    assert plans_of(kernel, **small, num_layers=2) == {(1, WAVEFRONT)}
    assert plans_of(kernel, **small, num_layers=4) == {(1, WAVEFRONT)}
    assert plans_of(kernel, **small, num_layers=2, bidirectional=True) == {(1, OWN_DIRECTION)}
    for other in (
        {**small},
        {**small, "num_layers": 2, "dropout": 0.5},
        {**small, "num_layers": 2, "zoneout": 0.1},
        {**small, "num_layers": 2, "batch": 16},
        {**small, "num_layers": 2, "seq": 8},
        {**small, "num_layers": 3},
        {**small, "num_layers": 2, "input_size": 500},
        {"seq": 100, "batch": 2, "hidden": 5, "num_layers": 2},
        {"seq": 100, "batch": 1, "hidden": 250, "num_layers": 2},
    ):
        assert WAVEFRONT not in str(plans_of(kernel, **other)), other
    torch.set_num_threads(4)
    for layers in (2, 3, 4):
        assert plans_of(kernel, **small, num_layers=layers) == {(1, WAVEFRONT)}
    torch.set_num_threads(1)
    assert WAVEFRONT not in str(plans_of(kernel, **small, num_layers=2))


@pytest.mark.parametrize("layer", LAYERS)
def test_nothing_is_kept_without_gradient(layer):
    module = getattr(fastrnn, layer)(4, 8)
    value = torch.randn(5, 2, 4)
    with torch.no_grad():
        rows = fastrnn.explain(module, value).rows
    module.requires_grad_(False)
    for row in (*rows, *fastrnn.explain(module, value).rows):
        assert row.reserve_bytes == 0
        assert row.path == ("none" if row.pass_ == "backward" else "fused")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layers", (1, 3))
@pytest.mark.parametrize("bidirectional", (False, True))
def test_reserve_bytes_are_what_forward_keeps(layer, layers, bidirectional):
    """The bytes told add up to those of the op's reserve."""
    module = getattr(fastrnn, layer)(4, 20, layers, bidirectional=bidirectional)
    value, hx = torch.randn(7, 3, 4), torch.zeros(layers * (2 if bidirectional else 1), 3, 20)
    name = {"RNN": "rnn_tanh", "LSTM": "lstm", "GRU": "gru"}[layer]
    states = (hx, hx) if layer == "LSTM" else (hx,)
    forward = torch.ops.fastrnn._plain_forward
    reserve = forward(name, [value, *states, *module.parameters()], None, bidirectional, False)[-1]
    told = [row.reserve_bytes for row in fastrnn.explain(module, value).rows if row.pass_ == "forward"]
    assert sum(told) == reserve.numel() * reserve.element_size()


def test_packed_and_unbatched_input():
    module = fastrnn.GRU(4, 8)
    packed = pack_sequence([torch.randn(5, 4), torch.randn(2, 4)])
    row = fastrnn.explain(module, packed, torch.zeros(1, 2, 8)).rows[0]
    dense = fastrnn.explain(module, torch.randn(5, 2, 4)).rows[0]
    assert row.path == "fused"
    assert row.reserve_bytes == dense.reserve_bytes * 7 // 10
    assert fastrnn.explain(module, torch.randn(5, 4)).rows[0].path == "fused"
    assert fastrnn.explain(module, input=torch.randn(5, 4)).rows[0].path == "fused"


def test_does_not_run_the_module():
    module = fastrnn.LSTM(4, 8, 2, dropout=0.5)
    before = torch.get_rng_state()
    called = []
    module.register_forward_hook(lambda *_: called.append(1))
    fastrnn.explain(module, torch.randn(5, 2, 4).fill_(0))
    after_randn = torch.get_rng_state()
    torch.set_rng_state(before)
    torch.randn(5, 2, 4)
    assert torch.equal(torch.get_rng_state(), after_randn)
    assert not called


def test_refuses_what_the_call_refuses():
    with pytest.raises(TypeError, match=r"got torch\.nn\.LSTM.*fastrnn\.convert"):
        fastrnn.explain(nn.LSTM(4, 8), torch.randn(5, 2, 4))
    with pytest.raises(TypeError, match=r"layer or cell itself, got torch\.nn\.Sequential$"):
        fastrnn.explain(nn.Sequential(fastrnn.LSTM(4, 8)), torch.randn(5, 2, 4))
    for name in (*LAYERS, *CELLS):
        with pytest.raises(TypeError, match=r"explain\(module, input\): missing a required argument: 'input'"):
            fastrnn.explain(getattr(fastrnn, name)(4, 8))
        with pytest.raises(TypeError, match=r"explain\(module, input\): .*'lenths'"):
            fastrnn.explain(getattr(fastrnn, name)(4, 8), torch.randn(5, 4), lenths=3)
    with pytest.raises(RuntimeError, match="input_size"):
        fastrnn.explain(fastrnn.LSTM(4, 8), torch.randn(5, 2, 7))
    with pytest.raises(NotImplementedError, match="float32"):
        fastrnn.explain(fastrnn.LSTM(4, 8, dtype=torch.complex64), torch.randn(5, 2, 4, dtype=torch.complex64))


def test_meta_runs_nothing():
    module = fastrnn.LSTM(4, 8, device="meta")
    for row in fastrnn.explain(module, torch.randn(5, 2, 4, device="meta")).rows:
        assert (row.device, row.path, row.threads, row.reserve_bytes) == ("meta", "none", 0, 0)
        assert row.reason == "meta tensors: only shapes are computed"


def test_the_formula_shows():
    """Forward-mode AD leaves the kernels, and says so."""
    layer, x = fastrnn.GRU(3, 4), torch.randn(5, 2, 3)
    with forward_ad.dual_level():
        rows = fastrnn.explain(layer, x).rows
    assert {row.path for row in rows} == {"formula"}
    assert all("forward-mode AD" in row.reason for row in rows)
    assert {row.path for row in fastrnn.explain(layer, x).rows} == {"fused"}


@pytest.mark.filterwarnings("ignore:.*step by step on torch ops:RuntimeWarning")
def test_why_a_cell_has_no_kernels(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRNN_COMPILE", "0")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))

    @fastrnn.cell(gates=1)
    def Uncompiled(x, r, h):  # noqa: N802
        return torch.tanh(x[0] + r[0]) - 0.25 * h

    layer, step = Uncompiled(3, 4), Uncompiled.Cell(3, 4)
    for module, x in ((layer, torch.randn(5, 2, 3)), (step, torch.randn(2, 3))):
        rows = fastrnn.explain(module, x).rows
        assert {(row.path, row.reason) for row in rows} == {
            ("formula", "no kernels: FASTRNN_COMPILE=0 forbids to compile it; torch ops, slow")
        }
    with pytest.raises(ValueError):
        fastrnn.explain(layer, torch.ones(5, 2, 3, dtype=torch.int64))


class TestBeyondTorch:
    """Extras run fused, too, and only where there are some."""

    @pytest.mark.parametrize(
        ("keywords", "training", "expected"),
        [
            ({"tbptt_steps": 2}, False, "fused with extras"),
            ({"state_grad_clip": 1.0}, False, "fused with extras"),
            ({"zoneout": 0.1}, False, "fused with extras"),
            ({"variational_dropout": 0.1}, True, "fused with extras"),
            ({"variational_dropout": 0.1}, False, "fused"),
            ({"weight_dropout": 0.1}, True, "fused"),
            ({"num_heads": 2}, True, "fused"),
            ({"recompute": True}, True, "fused"),
            ({"peephole": True}, False, "fused with extras"),
            ({"coupled": True}, False, "fused with extras"),
            ({"layer_norm": True}, False, "fused with extras"),
        ],
        ids=str,
    )
    def test_options(self, keywords, training, expected):
        layer = fastrnn.LSTM(4, 8, 2, bidirectional=True, **keywords).train(training)
        rows = fastrnn.explain(layer, torch.randn(5, 3, 4)).rows
        assert {row.path for row in rows} == {expected}
        assert all((row.reserve_bytes == 0) == ("recompute" in keywords) for row in rows)

    def test_calls(self):
        layer, x, resets = fastrnn.LSTM(4, 8, 2), torch.randn(5, 3, 4), torch.zeros(5, 3, dtype=torch.bool)
        assert {row.path for row in fastrnn.explain(layer, x, resets=resets).rows} == {"fused with extras"}
        paths = [row.path for row in fastrnn.explain(layer, x, return_states=True).rows]
        assert paths == ["fused"] * 2 + ["fused with extras"] * 2

    def test_nothing_is_packed_ahead_for_them(self):
        layer, x = fastrnn.LSTM(4, 8).pack_weights(), torch.randn(5, 3, 4)
        with torch.no_grad():
            assert fastrnn.explain(layer, x).rows[0].weights == "packed ahead"
            assert fastrnn.explain(layer, x, return_states=True).rows[0].weights == "packed"
            with_heads = fastrnn.explain(fastrnn.LSTM(4, 8, num_heads=2), x).rows[0]
            assert with_heads.weights == "packed"
            assert with_heads.reason.endswith("; not packed ahead: the layer has num_heads=2")
        recorded = fastrnn.explain(fastrnn.LSTM(4, 8, num_heads=2), x).rows[0]
        assert "packed ahead" not in recorded.reason  # it would not be in a layer without options, either

    def test_what_gradients_alone_see_costs_inference_nothing(self):
        layer = fastrnn.GRU(4, 8, tbptt_steps=2, state_grad_clip=1.0)
        with torch.no_grad():
            assert {row.path for row in fastrnn.explain(layer, torch.randn(5, 3, 4)).rows} == {"fused", "none"}

    def test_weights_of_bfloat16_are_widened(self):
        layer, x = fastrnn.LSTM(4, 8, dtype=torch.bfloat16), torch.randn(5, 3, 4, dtype=torch.bfloat16)
        with torch.no_grad():
            rows = fastrnn.explain(layer, x, resets=torch.zeros(5, 3, dtype=torch.bool)).rows
        assert rows[0].precision == "bfloat16 in float32"

    def test_refuses_what_the_call_refuses(self):
        x = torch.randn(5, 3, 4)
        for layer, keywords, error in (
            (fastrnn.GRU(4, 8), {"return_states": True}, ValueError),
            (fastrnn.LSTM(4, 8), {"resets": torch.zeros(3, 5, dtype=torch.bool)}, ValueError),
            (fastrnn.LSTM(4, 8), {"reset_state": (x, x)}, ValueError),
        ):
            with pytest.raises(error):
                layer(x, **keywords)
            with pytest.raises(error):
                fastrnn.explain(layer, x, **keywords)
