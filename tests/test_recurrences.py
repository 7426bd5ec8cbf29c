"""Layers that are more than torch.nn's, against the Python loop that a user writes without them: sequence by sequence,
step by step, with detach(), register_hook() and the formulas of the papers."""

import copy
import dataclasses
import itertools
import pickle

import pytest
import torch
from cases import LAYERS, assert_same, outputs_and_gradients, randn
from recurrence_loops import (
    BATCH,
    FEATURES,
    INPUT,
    LAYOUTS,
    LENGTHS,
    STEPS,
    Loop,
    Recorder,
    SavedBytes,
    as_called,
    build,
    has_feature,
    input_factors,
    leaves_of,
    rows_of_data,
    run_layer,
    states_of,
)
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_map

import fastrnn
from fastrnn._call import ragged

pytestmark = pytest.mark.thorough

CASES = [
    (layer, feature, layout, bidirectional, training)
    for layer, feature, layout, bidirectional, training in itertools.product(
        LAYERS, FEATURES, LAYOUTS, (False, True), (True, False)
    )
    # Only dropout differs between training and eval.
    if (training or "zoneout" in FEATURES[feature]) and has_feature(layer, feature)
]


@pytest.mark.parametrize(
    ("layer", "feature", "layout", "bidirectional", "training"),
    CASES,
    ids=[
        "-".join(map(str, (*case[:3], "both" if case[3] else "one", "train" if case[4] else "eval"))) for case in CASES
    ],
)
def test_equals_the_users_loop(layer, feature, layout, bidirectional, training, monkeypatch):
    options = {"bidirectional": bidirectional, "num_layers": 2, "batch_first": layout == "batch_first"}
    module = build(layer, feature, training, **options)
    lengths = LENGTHS if layout in ("packed", "lengths") else (STEPS,) * (1 if layout == "unbatched" else BATCH)
    has_resets = feature in ("resets", "everything")
    resets = torch.rand(STEPS, len(lengths)) < 0.4 if has_resets else None
    leaves = leaves_of(module, layer, layout, feature)
    return_states = feature in ("states", "everything") and layer == "LSTM"
    order, place = rows_of_data(layout, lengths)
    seed = int(torch.randint(2**31, ()))

    def ours(module, leaves):
        torch.manual_seed(seed)
        return run_layer(module, leaves, layout, lengths, resets, return_states)

    recorder = Recorder(monkeypatch, module, order)
    actual = outputs_and_gradients(module, leaves, ours)
    drawn = recorder.drawn(place)
    inputs_seen = [call[0] for call in recorder.calls]
    monkeypatch.undo()

    def theirs(module, leaves):
        fresh = states_of(leaves, "reset_") or None
        records = [dict(record) for record in drawn]
        if module.options and module.options.variational_dropout and training:
            factors = input_factors(module, inputs_seen, lengths, place)
            for record, factor in zip(records, factors, strict=True):
                record["input_factor"] = factor
        results = Loop(module, layer)(leaves["input"], states_of(leaves), resets, fresh, lengths, records)
        # States that were all replaced have a gradient, of zeros.
        nothing = sum(leaf.sum() for leaf in leaves.values()) * 0
        return results[0] + nothing, tuple(results[1]), *results[2:][: 1 if return_states else 0]

    expected = outputs_and_gradients(module, leaves, theirs)
    assert_same(expected, actual, 1e-11)


@pytest.mark.parametrize("layer", LAYERS)
def test_masks_have_their_probability(layer, monkeypatch):
    module = getattr(fastrnn, layer)(
        INPUT, 64, zoneout=(0.1, 0.5) if layer == "LSTM" else 0.1, variational_dropout=0.25, weight_dropout=0.4
    )
    recorder = Recorder(monkeypatch, module, range(BATCH))
    module(torch.randn(50, 30, INPUT))
    ((_, weights, extras),) = recorder.calls
    assert abs(extras.kept[0].mean() - 0.1) < 0.01
    assert len(extras.kept) == 1 if layer != "LSTM" else abs(extras.kept[1].mean() - 0.5) < 0.01
    assert extras.h_mask.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert abs((weights[1] == 0).float().mean() - 0.4) < 0.05


class TestConstruction:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_defaults_leave_repr_and_state_dict_alone(self, layer):
        plain = getattr(fastrnn, layer)(3, 4)
        ours = getattr(fastrnn, layer)(
            3, 4, tbptt_steps=None, state_grad_clip=None, zoneout=0.0, weight_dropout=0.0, variational_dropout=0.0,
            num_heads=1,
        )  # fmt: skip
        assert ours.options is None
        assert repr(ours) == repr(plain) == repr(getattr(nn, layer)(3, 4))

    def test_repr_keeps_what_is_set(self):
        layer = fastrnn.LSTM(3, 4, 2, tbptt_steps=5, zoneout=(0.1, 0.2))
        assert repr(layer) == "LSTM(3, 4, num_layers=2, tbptt_steps=5, zoneout=(0.1, 0.2))"

    @pytest.mark.parametrize(
        ("keywords", "error"),
        [
            ({"tbptt_steps": 0}, ValueError),
            ({"tbptt_steps": 2.0}, TypeError),
            ({"state_grad_clip": 0}, ValueError),
            ({"state_grad_clip": float("inf")}, ValueError),
            ({"zoneout": 1.5}, ValueError),
            ({"zoneout": (0.1, 0.2, 0.3)}, ValueError),
            ({"zoneout": (0.1, -0.2)}, ValueError),
            ({"weight_dropout": -0.1}, ValueError),
            ({"variational_dropout": "a"}, ValueError),
            ({"num_heads": 0}, ValueError),
            ({"num_heads": 3}, ValueError),
            ({"num_heads": 2, "proj_size": 2}, ValueError),
            ({"recompute": 1}, TypeError),
            ({"peephole": 1}, TypeError),
            ({"layer_norm": 1}, TypeError),
            ({"reset_after": False}, ValueError),
        ],
        ids=str,
    )
    def test_refused(self, keywords, error):
        with pytest.raises(error, match=next(iter(keywords))):
            fastrnn.LSTM(3, 4, **keywords)

    def test_layer_norm_needs_the_whole_product_at_once(self):
        with pytest.raises(ValueError, match="layer_norm"):
            fastrnn.GRU(3, 4, layer_norm=True, reset_after=False)

    @pytest.mark.parametrize(("layer", "gates"), [("RNN", 1), ("GRU", 3)])
    def test_parameters_of_layer_norm_without_c(self, layer, gates):
        names = {name: p.shape for name, p in getattr(fastrnn, layer)(3, 4, layer_norm=True).named_parameters()}
        assert names.items() >= {"ln_ih_l0": (4 * gates,), "ln_hh_l0": (4 * gates,)}.items()
        assert not any(name.startswith("ln_c") for name in names)

    def test_an_rnn_has_nothing_to_recompute(self):
        with pytest.raises(ValueError, match="recompute"):
            fastrnn.RNN(3, 4, recompute=True)

    @pytest.mark.parametrize(
        ("layer", "keyword"), [("RNN", "peephole"), ("GRU", "peephole"), ("GRU", "coupled"), ("RNN", "reset_after")]
    )
    def test_variants_of_another_cell(self, layer, keyword):
        with pytest.raises(ValueError, match=keyword):
            getattr(fastrnn, layer)(3, 4, **{keyword: keyword != "reset_after"})

    @pytest.mark.parametrize(
        ("keywords", "shapes"),
        [
            ({"peephole": True}, {"weight_ih": (16, 3), "weight_hh": (16, 4), "bias_ih": (16,), "weight_c": (3, 4)}),
            ({"coupled": True}, {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_hh": (12,)}),
            ({"coupled": True, "peephole": True, "proj_size": 2}, {"weight_hr": (2, 4), "weight_c": (2, 4)}),
            ({"num_heads": 2}, {"weight_ih": (16, 3), "weight_hh": (16, 2)}),
            ({"layer_norm": True}, {"weight_hh": (16, 4), "bias_hh": (16,), "ln_ih": (16,), "ln_hh": (16,)}),
            ({"layer_norm": True, "peephole": True, "coupled": True}, {"ln_ih": (12,), "weight_c": (2, 4)}),
        ],
        ids=str,
    )
    def test_parameters(self, keywords, shapes):
        layer = fastrnn.LSTM(3, 4, 2, bidirectional=True, **keywords)
        for name, shape in shapes.items():
            assert getattr(layer, f"{name}_l0_reverse").shape == shape
        bound = 1 / 4**0.5
        for name, parameter in layer.named_parameters():
            if name.startswith("ln_"):
                assert parameter.unique().item() == (0 if name.endswith("_bias") else 1), name
                continue
            assert parameter.abs().max() <= bound, name
            assert parameter.unique().numel() > 1, name
        assert [p.shape for p in layer._flat_weights] == [p.shape for group in layer.all_weights for p in group]
        assert len(list(layer.parameters())) == len(layer._flat_weights)
        again = fastrnn.LSTM(3, 4, 2, bidirectional=True, **keywords)
        again.load_state_dict(layer.state_dict())
        value = torch.randn(5, 2, 3)
        assert torch.equal(again(value)[0], layer(value)[0])
        assert torch.equal(pickle.loads(pickle.dumps(layer))(value)[0], layer(value)[0])

    def test_options_change(self):
        layer = fastrnn.LSTM(3, 4, zoneout=0.5).eval()
        value, before = torch.randn(5, 2, 3), layer.options
        layer.options = dataclasses.replace(before, zoneout=0.0)
        assert layer.options is None
        assert torch.equal(layer(value)[0], fastrnn.functional.lstm(value, None, list(layer.parameters()))[0])
        layer.options = before
        for change in ({"num_heads": 2}, {"peephole": True}, {"coupled": True}, {"layer_norm": True}):
            with pytest.raises(ValueError, match=next(iter(change))):
                layer.options = dataclasses.replace(before, **change)
        with pytest.raises(ValueError, match="zoneout"):
            fastrnn.GRU(3, 4).options = dataclasses.replace(before, zoneout=(0.1, 0.2))

    @pytest.mark.parametrize("layer", ("RNN", "GRU"))
    def test_pair_of_zoneouts_is_the_lstms(self, layer):
        with pytest.raises(ValueError, match="only the LSTM"):
            getattr(fastrnn, layer)(3, 4, zoneout=(0.1, 0.2))


class TestRefusedCalls:
    @pytest.fixture
    def call(self):
        return lambda **keywords: fastrnn.LSTM(3, 4)(torch.randn(5, 2, 3), **keywords)

    @pytest.mark.parametrize("resets", (torch.zeros(5, 2), [[True] * 2] * 5), ids=("float", "list"))
    def test_resets_of_another_type(self, call, resets):
        with pytest.raises(TypeError, match="resets must be a Tensor of bool"):
            call(resets=resets)

    @pytest.mark.parametrize("shape", ((2, 5), (5,), (5, 2, 1)))
    def test_resets_of_another_shape(self, call, shape):
        with pytest.raises(ValueError, match="resets must have shape"):
            call(resets=torch.zeros(shape, dtype=torch.bool))

    def test_reset_state_of_another_shape(self, call):
        state = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)
        with pytest.raises(RuntimeError, match="reset_state must have hx's shape"):
            call(resets=torch.zeros(5, 2, dtype=torch.bool), reset_state=state)

    def test_reset_state_without_resets(self, call):
        with pytest.raises(ValueError, match="pass resets, too"):
            call(reset_state=(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)))

    @pytest.mark.parametrize("layer", ("RNN", "GRU"))
    def test_return_states_of_a_layer_without_c(self, layer):
        with pytest.raises(ValueError, match="only the LSTM"):
            getattr(fastrnn, layer)(3, 4)(torch.randn(5, 2, 3), return_states=True)


class TestResetState:
    """What a reset state may be beside the plain case."""

    def test_autocast(self):
        layer, state = fastrnn.GRU(3, 4), torch.zeros(1, 1, 4, requires_grad=True)
        resets = torch.ones(5, 2, dtype=torch.bool)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output, _ = layer(torch.randn(5, 2, 3).bfloat16(), torch.zeros(1, 2, 4), resets=resets, reset_state=state)
        assert output.dtype == torch.bfloat16
        assert torch.autograd.grad(output.float().sum(), state)[0].abs().min() > 0

    def test_meta(self):
        layer, resets = fastrnn.GRU(3, 4, device="meta"), torch.ones(5, 2, dtype=torch.bool, device="meta")
        state = torch.zeros(1, 1, 4, device="meta")
        assert layer(torch.randn(5, 2, 3, device="meta"), resets=resets, reset_state=state)[0].shape == (5, 2, 4)

    def test_another_dtype(self):
        resets, state = torch.ones(5, 2, dtype=torch.bool), torch.zeros(1, 1, 4).double()
        with pytest.raises(RuntimeError, match=r"reset_state\.to\(torch\.float32\)"):
            fastrnn.GRU(3, 4)(torch.randn(5, 2, 3), resets=resets, reset_state=state)


def test_resets_in_a_trace():
    """torch.jit.trace follows resets, which it must not see as another view of them."""
    layer, value, resets = fastrnn.GRU(3, 4).eval().requires_grad_(False), torch.randn(5, 2, 3), torch.rand(5, 2) < 0.5
    traced = torch.jit.trace(lambda value, resets: layer(value, resets=resets)[0], (value, resets))
    assert torch.equal(traced(value, ~resets), layer(value, resets=~resets)[0])


@pytest.mark.parametrize("keywords", ({"zoneout": 0.2}, {"variational_dropout": 0.2}), ids=str)
class TestRandomMasks:
    def test_default_device(self, keywords):
        layer, value = fastrnn.LSTM(3, 4, **keywords), torch.randn(5, 2, 3)
        torch.manual_seed(0)
        expected, _ = layer(value)
        torch.manual_seed(0)
        with torch.device("meta"):
            output, _ = layer(value)
        assert torch.equal(output, expected)

    def test_one_graph_for_all_shapes(self, keywords):
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(fastrnn.LSTM(3, 4, **keywords), fullgraph=True, backend=counter, dynamic=True)
        counts = []
        for steps, batch in ((5, 7), (8, 9), (6, 11)):  # none of them another size of the layer
            assert compiled(torch.randn(steps, batch, 3))[0].shape == (steps, batch, 4)
            counts.append(counter.frame_count)
        assert len(set(counts)) == 1

    def test_vmap_draws_one_mask_for_all(self, keywords):
        layer, value = fastrnn.GRU(3, 4, **keywords), torch.randn(6, 5, 2, 3)
        output = torch.func.vmap(lambda one: layer(one)[0], randomness="same")(value[:1].expand(6, -1, -1, -1))
        for other in output[1:]:
            torch.testing.assert_close(other, output[0])


def test_forward_mode_under_a_clip():
    layer, plain, value = fastrnn.GRU(3, 4, state_grad_clip=1e-3), fastrnn.GRU(3, 4), torch.randn(5, 2, 3)
    plain.load_state_dict(layer.state_dict())
    for ours, theirs in zip(
        torch.func.jvp(lambda x: layer(x)[0], (value,), (value.cos(),)),
        torch.func.jvp(lambda x: plain(x)[0], (value,), (value.cos(),)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_one_reset_state_for_all_sequences():
    layer = fastrnn.GRU(3, 4, 2)
    input, resets, state = torch.randn(5, 2, 3), torch.rand(5, 2) < 0.5, torch.randn(2, 1, 4, requires_grad=True)
    ours = layer(input, resets=resets, reset_state=state)
    theirs = layer(input, resets=resets, reset_state=state.expand(2, 2, 4))
    assert torch.equal(ours[0], theirs[0])
    assert torch.autograd.grad(ours[0].sum(), state)[0].shape == state.shape


def test_a_reset_at_the_first_step_leaves_hx_without_gradient():
    layer, hx = fastrnn.GRU(3, 4), torch.randn(1, 2, 4, requires_grad=True)
    resets = torch.tensor([[True, False]] + [[False, False]] * 4)
    output, _ = layer(torch.randn(5, 2, 3), hx, resets=resets)
    grad = torch.autograd.grad(output.sum(), hx)[0]
    assert (grad[0, 0] == 0).all()
    assert (grad[0, 1] != 0).all()


@pytest.mark.parametrize(
    ("layer", "feature"), [pair for pair in itertools.product(LAYERS, FEATURES) if has_feature(*pair)]
)
def test_compiles_without_graph_breaks(monkeypatch, layer, feature):
    # Eager calls then draw masks of the graph's size, and so the same ones: a graph does not pack.
    monkeypatch.setattr(ragged, "packs_padded", lambda input: False)
    torch._dynamo.reset()
    module = build(layer, feature, True, bidirectional=True)
    resets = torch.rand(STEPS, BATCH) < 0.4 if feature in ("resets", "everything") else None
    leaves = leaves_of(module, layer, "batched", feature)
    lengths = torch.tensor(LENGTHS)

    def run(module, leaves):
        torch.manual_seed(0)
        keywords = {"lengths": lengths}
        if resets is not None:
            keywords |= {"resets": resets, "reset_state": as_called(states_of(leaves, "reset_"))}
        if feature == "states":
            keywords["return_states"] = True
        return module(leaves["input"], as_called(states_of(leaves)), **keywords)

    expected = outputs_and_gradients(module, leaves, run)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    actual = outputs_and_gradients(compiled, leaves, run)
    assert_same(expected, {name.replace("_orig_mod.", ""): value for name, value in actual.items()}, 1e-12)


@pytest.mark.parametrize("batch_first", (True, False))
@pytest.mark.parametrize("given", (("hx",), ("resets",), ("hx", "resets", "reset_state")), ids="-".join)
def test_a_sorted_packed_sequence_compiles_without_graph_breaks(given, batch_first):
    """Though its batch is nowhere but in a tensor's values."""
    torch._dynamo.reset()
    layer = fastrnn.GRU(3, 4, batch_first=batch_first)
    packed = pack_padded_sequence(torch.randn(6, 5, 3), torch.tensor([6, 4, 4, 2, 1]))
    resets = torch.rand(6, 5) < 0.5
    states = {"hx": torch.randn(1, 5, 4), "resets": resets.t() if batch_first else resets}
    keywords = {name: states.get(name, torch.randn(1, 1, 4)) for name in given}
    compiled = torch.compile(lambda packed, keywords: layer(packed, **keywords), fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(compiled(packed, keywords), layer(packed, **keywords), strict=True):
        assert torch.equal(ours.data, theirs.data)
    if "hx" in given:
        with pytest.raises(RuntimeError):
            compiled(packed, keywords | {"hx": torch.randn(1, 3, 4)})


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16), ids=str)
@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
@pytest.mark.parametrize(
    ("layer", "feature"), [pair for pair in itertools.product(LAYERS, FEATURES) if has_feature(*pair)]
)
def test_half_types_compute_in_float32(layer, feature, training, dtype):
    """Every extra reaches the kernels, also where those without extras would read weights of bfloat16 as they are."""
    half = build(layer, feature, training).to(dtype)
    wide = copy.deepcopy(half).float()
    leaves = {name: leaf.to(dtype) for name, leaf in leaves_of(half, layer, "batched", feature).items()}
    resets = torch.rand(STEPS, BATCH) < 0.4 if feature in ("resets", "everything") else None
    states = feature == "states"
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            torch.manual_seed(0)
            actual = run_layer(half, leaves, "batched", LENGTHS, resets, states)
            torch.manual_seed(0)
            floats = {name: leaf.float() for name, leaf in leaves.items()}
            expected = run_layer(wide, floats, "batched", LENGTHS, resets, states)
        expected = tree_map(lambda tensor: tensor.to(dtype), expected)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_masks_follow_manual_seed():
    module, input = build("LSTM", "everything", True), randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(module(input)[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("layer", ("LSTM", "GRU"))
@pytest.mark.parametrize("keywords", ({}, {"zoneout": 0.1}), ids=("plain", "zoneout"))
def test_recompute_keeps_the_states_alone(layer, keywords):
    input, totals = torch.randn(20, 4, 8), {}
    for recompute in (False, True):
        module = getattr(fastrnn, layer)(8, 16, recompute=recompute, **keywords)
        with SavedBytes(input, *module.parameters()) as saved:
            output, _ = module(input)
        # What zoneout drew is kept either way.
        masks = (2 if layer == "LSTM" else 1) * output.numel() * 4 if keywords else 0
        totals[recompute] = saved.total - masks - (0 if recompute else output.numel() * 4)
        output.sum().backward()
    assert totals[True] <= 0.4 * totals[False]
