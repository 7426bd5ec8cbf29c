"""Options of layers of one's own: the kernels against the formula, with the same masks."""

import pytest
import torch
from own_cells import (
    CELLS,
    GRU,
    LSTM,
    IndGRU,
    IndRNN,
    MinGRU,
    PerUnit,
    Readout,
    ThreeStates,
    by_cell,
    evaluated,
    formula,
    params,
    randn,
    states_of,
    tensors,
)

import fastrnn

pytestmark = [pytest.mark.usefixtures("kept_cells"), pytest.mark.thorough]

F64 = {"dtype": torch.float64}
OPTIONS = (
    {"zoneout": 0.4},
    {"tbptt_steps": 2},
    {"state_grad_clip": 0.05},
    {"recompute": True},
    {"dropout": 0.4},
    {"zoneout": 0.4, "tbptt_steps": 3, "state_grad_clip": 0.1, "recompute": True, "dropout": 0.3},
)
OF_W_HH = ({"weight_dropout": 0.4}, {"variational_dropout": 0.4}, {"num_heads": 3})
ALL = {"zoneout": 0.3, "weight_dropout": 0.3, "variational_dropout": 0.3, "num_heads": 3, "state_grad_clip": 0.1}


def check(layer, **given):
    """In training and in eval mode, with the same random masks."""
    lengths = torch.randint(0, 7, (4,))
    for training in (True, False):
        layer.train(training)
        value, hx = randn(6, 4, layer.input_size), states_of(layer, 4)
        for call in ({}, {"lengths": lengths, "return_states": True, "resets": torch.rand(6, 4) < 0.3}):
            draw = torch.get_rng_state()
            ours = evaluated(layer, value, hx, **call, **given)
            torch.set_rng_state(draw)
            with formula(type(layer)):
                theirs = evaluated(layer, value, hx, **call, **given)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@by_cell
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_kernels_compute_the_formula(kind, options):
    check(kind(3, 6, num_layers=2, bidirectional=True, **options, **F64))


@pytest.mark.parametrize("kind", params([kind for kind in CELLS if kind._own.graph.recurrent == "dense"]))
@pytest.mark.parametrize("options", (*OF_W_HH, ALL), ids=str)
def test_those_of_recurrent_weights(kind, options):
    check(kind(3, 6, num_layers=2, bidirectional=True, **options, **F64))


@pytest.mark.parametrize("kind", (IndRNN, IndGRU), ids=lambda kind: kind.__name__)
def test_dropped_diagonal_weights(kind):
    layer = kind(3, 6, weight_dropout=0.5, **F64)
    check(layer)
    layer.train()
    plain = kind(3, 6, **F64)
    value, hx = randn(1, 4, 3), states_of(layer, 4)
    torch.manual_seed(7)
    ours = layer(value, hx)[0]
    torch.manual_seed(7)
    mask = fastrnn._call.random.dropout_factors(0.5, layer.weight_hh_l0.shape, layer.weight_hh_l0)
    plain.load_state_dict(layer.state_dict() | {"weight_hh_l0": layer.weight_hh_l0 * mask})
    torch.testing.assert_close(ours, plain(value, hx)[0])


def test_zoneout_takes_the_mean_in_eval_mode():
    layer = ThreeStates(3, 5, zoneout=(0.1, 0.0, 0.7), **F64).eval()
    plain = ThreeStates(3, 5, **F64)
    plain.load_state_dict(layer.state_dict())
    value, hx = randn(1, 2, 3), states_of(layer, 2)
    after = plain(value, hx)[1]
    expected = [p * old + (1 - p) * new for p, old, new in zip((0.1, 0.0, 0.7), hx, after, strict=True)]
    for ours, theirs in zip(layer(value, hx)[1], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_zoneout_of_each_state_in_training():
    """Of no other is a unit kept."""
    layer = ThreeStates(3, 50, zoneout=(0.0, 0.5, 0.0), **F64)
    value, hx = randn(1, 8, 3), states_of(layer, 8)
    _, (h, c, p) = layer(value, hx)
    shares = [(after == before).double().mean().item() for after, before in zip((h, c, p), hx, strict=True)]
    assert shares[0] == shares[2] == 0
    assert 0.25 < shares[1] < 0.75  # of 400, 10 standard deviations


def test_output_has_no_zoneout():
    layer = Readout(3, 50, zoneout=(0.9, 0.9), **F64)
    check(layer)
    plain = Readout(3, 50, **F64)
    plain.load_state_dict(layer.state_dict())
    value, hx = randn(1, 4, 3), states_of(layer, 4)
    torch.testing.assert_close(layer.train()(value, hx)[0], plain(value, hx)[0])


def test_truncated_gradients():
    """They reach back to the last multiple of k."""
    layer = GRU(3, 5, tbptt_steps=3, **F64)
    value = randn(7, 2, 3).requires_grad_()
    layer(value)[0][5].sum().backward()
    reached = value.grad.abs().amax((1, 2)) > 0
    assert reached.tolist() == [False, False, False, True, True, True, False]


def test_heads_read_their_own_units():
    layer = LSTM(3, 6, num_heads=2, **F64)
    assert layer.weight_hh_l0.shape == (24, 3)
    value, hx = randn(2, 2, 3), states_of(layer, 2)
    other = (torch.cat([hx[0][..., :3], randn(1, 2, 3)], -1), hx[1])
    ours, theirs = layer(value, hx)[0], layer(value, other)[0]
    assert torch.equal(ours[0, :, :3], theirs[0, :, :3])
    assert not torch.equal(ours[0, :, 3:], theirs[0, :, 3:])


def test_recomputing_keeps_nothing():
    value = torch.randn(20, 4, 3)

    def largest_kept(layer):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(value)
        return max(sizes)

    gates = 20 * 4 * 4 * 64
    assert largest_kept(LSTM(3, 64)) >= gates
    assert largest_kept(LSTM(3, 64, recompute=True)) == 4 * 64 * 64 * 1


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GRU, {"peephole": True}, None),
        (GRU, {"zoneout": (0.1, 0.2)}, "zoneout must be a probability, or one for each of 1 states"),
        (LSTM, {"zoneout": (0.1, 0.2, 0.3)}, "zoneout must be a probability, or one for each of 2 states"),
        (LSTM, {"zoneout": 1.5}, "zoneout must be a probability"),
        (ThreeStates, {"zoneout": (0.1, 0.2)}, "zoneout must be a probability, or one for each of 3 states"),
        (LSTM, {"num_heads": 4}, "hidden_size 6 is not a multiple of num_heads 4"),
        (IndRNN, {"num_heads": 2}, "num_heads is about w_hh"),
        (IndRNN, {"variational_dropout": 0.1}, "variational_dropout is about w_hh"),
        (MinGRU, {"weight_dropout": 0.1}, "weight_dropout is about w_hh"),
        (MinGRU, {"num_heads": 2}, "num_heads is about w_hh"),
        (PerUnit, {"tbptt_steps": 0}, "tbptt_steps must be at least 1"),
        (PerUnit, {"state_grad_clip": 0}, "state_grad_clip must be a number above 0"),
    ],
    ids=str,
)
def test_refused(kind, options, message):
    with pytest.raises(ValueError if message else TypeError, match=message):
        kind(3, 6, **options)


@pytest.mark.parametrize("change", ({"peephole": True}, {"layer_norm": True}, {"reset_after": False}, {"num_heads": 2}))
def test_refused_of_a_layer_that_is_there(change):
    layer = LSTM(3, 6)
    with pytest.raises(ValueError, match=r"LSTM: |a layer made with num_heads"):
        layer.options = fastrnn.Options(**change)
    assert layer.options is None


def test_options_changed_between_calls():
    layer, value = LSTM(3, 5, zoneout=0.5, **F64), randn(4, 2, 3)
    layer.options = None
    plain = LSTM(3, 5, **F64)
    plain.load_state_dict(layer.state_dict())
    assert all(map(torch.equal, tensors(layer(value)), tensors(plain(value))))
