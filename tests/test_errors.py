"""Wrong calls raise what torch.nn raises, with a message that names what was wrong."""

import copy
import dataclasses
import warnings

import numpy as np
import pytest
import torch
from cases import CELLS, LAYERS
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import fastrnn
from fastrnn._options import NAMES


def states(layer, *shape, **kwargs):
    """hx as the layer takes it; for the LSTM both of that shape."""
    hx = torch.randn(*shape, **kwargs)
    return (hx, hx) if layer.startswith("LSTM") else hx


def packed(features, batch_sizes, rows=None, **kwargs):
    rows = sum(batch_sizes) if rows is None else rows
    return PackedSequence(torch.randn(rows, features, **kwargs), torch.tensor(batch_sizes))


def layer_call(*make_args, **options):
    """A wrong call of a layer of input 4, hidden 3, two layers: make_args make arguments from the layer's name."""
    return lambda space, layer: getattr(space, layer)(4, 3, 2, **options)(*[make(layer) for make in make_args])


def construct(*args, **kwargs):
    return lambda space, layer: getattr(space, layer)(*args, **kwargs)


def x(*shape, **kwargs):
    return lambda layer: torch.randn(*shape, **kwargs)


def hx(*shape, **kwargs):
    return lambda layer: states(layer, *shape, **kwargs)


def given(value):
    return lambda layer: value


# What is wrong: (the call, a pattern that our message must match).
WRONG_LAYER_CALLS = {
    "rank 1": (layer_call(x(4)), "2D.*3D.*1D"),
    "rank 4": (layer_call(x(2, 2, 2, 4)), "2D.*3D.*4D"),
    "features": (layer_call(x(5, 2, 7)), "input_size.*4.*7"),
    "features, unbatched": (layer_call(x(5, 7)), "input_size.*4.*7"),
    "features, batch_first": (layer_call(x(5, 2, 7), batch_first=True), "input_size.*4.*7"),
    "no steps": (layer_call(x(0, 2, 4)), "sequence length"),
    "no steps, batch_first": (layer_call(x(2, 0, 4), batch_first=True), "sequence length"),
    "no steps, unbatched": (layer_call(x(0, 4)), "sequence length"),
    "input is f64": (layer_call(x(5, 2, 4, dtype=torch.float64)), "float64.*float32"),
    "input is integer": (layer_call(given(torch.ones(5, 2, 4, dtype=torch.int64))), "int64.*float32"),
    "input is None": (layer_call(given(None)), "input|dim"),
    "input is a list": (layer_call(given([1.0, 2.0])), "input|dim"),
    "input on another device": (layer_call(x(5, 2, 4, device="meta")), "device.*meta|meta.*device"),
    "hx batch": (layer_call(x(5, 2, 4), hx(2, 3, 3)), r"2, 2, 3\D*2, 3, 3"),
    "hx layers": (layer_call(x(5, 2, 4), hx(1, 2, 3)), r"2, 2, 3\D*1, 2, 3"),
    "hx directions": (layer_call(x(5, 2, 4), hx(2, 2, 3), bidirectional=True), r"4, 2, 3\D*2, 2, 3"),
    "hx features": (layer_call(x(5, 2, 4), hx(2, 2, 5)), r"2, 2, 3\D*2, 2, 5"),
    "hx batch, batch_first": (layer_call(x(5, 2, 4), hx(2, 2, 3), batch_first=True), r"2, 5, 3\D*2, 2, 3"),
    "hx unbatched": (layer_call(x(5, 2, 4), hx(2, 3)), "3-D.*2-D"),
    "hx batched, input not": (layer_call(x(5, 4), hx(2, 1, 3)), "2-D.*3-D"),
    "hx is f64": (layer_call(x(5, 2, 4), hx(2, 2, 3, dtype=torch.float64)), "dtype.*float32.*float64"),
    "hx on another device": (layer_call(x(5, 2, 4), hx(2, 2, 3, device="meta")), "device.*meta|meta.*device"),
    "packed features": (layer_call(given(packed(7, [2, 1]))), "input_size.*4.*7"),
    "packed hx batch": (layer_call(given(packed(4, [2, 1])), hx(2, 3, 3)), "2, 2, 3.*2, 3, 3|hx|hidden"),
    "packed rows missing": (layer_call(given(packed(4, [2, 1], rows=2))), "batch_sizes"),
    "packed batch sizes grow": (layer_call(given(packed(4, [1, 2]))), "batch_sizes"),
    "unknown keyword": (lambda space, layer: getattr(space, layer)(4, 3)(x=torch.ones(5, 4)), "x"),
    "no input": (layer_call(), "input"),
}

WRONG_LSTM_CALLS = {
    "cx features": (layer_call(x(5, 2, 4), given((torch.ones(2, 2, 3), torch.ones(2, 2, 4)))), r"2, 2, 3\D*2, 2, 4"),
    "cx is f64": (layer_call(x(5, 2, 4), given((torch.ones(2, 2, 3), torch.ones(2, 2, 3).double()))), "dtype|float64"),
    "cx rank": (layer_call(x(5, 4), given((torch.ones(2, 3), torch.ones(2, 1, 3)))), "2-D.*3-D"),
    "hx is a tensor": (layer_call(x(5, 2, 4), given(torch.ones(2, 2, 3))), "hx.*cx"),
    "no state": (layer_call(x(5, 2, 4), given(())), "two.*0"),
    "one state": (layer_call(x(5, 2, 4), given((torch.ones(2, 2, 3),))), "two.*1"),
    "one state of a sequence": (layer_call(x(5, 4), given([torch.ones(2, 3)])), "two.*1"),
    "three states": (layer_call(x(5, 2, 4), given((torch.ones(2, 2, 3),) * 3)), "two|3"),
    "hx not projected": (layer_call(x(5, 2, 4), hx(2, 2, 3), proj_size=2), r"2, 2, 2\D*2, 2, 3"),
}

WRONG_STATE_KINDS = {
    "hx is a tuple": (layer_call(x(5, 2, 4), given((torch.ones(2, 2, 3),) * 2)), "tuple"),
    "hx is a list": (layer_call(x(5, 2, 4), given([torch.ones(2, 2, 3)])), "list"),
}

WRONG_CONSTRUCTIONS = {
    "input_size 0": (construct(0, 3), "input_size"),
    "input_size -1": (construct(-1, 3), "input_size"),
    "input_size float": (construct(4.0, 3), "input_size.*float"),
    "input_size str": (construct("4", 3), "input_size.*str"),
    "hidden_size 0": (construct(4, 0), "hidden_size"),
    "hidden_size -3": (construct(4, -3), "hidden_size"),
    "hidden_size float": (construct(4, 3.0), "hidden_size.*float"),
    "num_layers 0": (construct(4, 3, 0), "num_layers"),
    "num_layers -1": (construct(4, 3, -1), "num_layers"),
    "num_layers float": (construct(4, 3, 1.5), "num_layers|float"),
    "num_layers str": (construct(4, 3, "two"), "num_layers|str"),
    "bias int": (construct(4, 3, bias=0), "bias.*int"),
    "bias str": (construct(4, 3, bias="no"), "bias.*str"),
    "batch_first int": (construct(4, 3, batch_first=1), "batch_first.*int"),
    "batch_first None": (construct(4, 3, batch_first=None), "batch_first.*None"),
    "dropout 2": (construct(4, 3, 2, dropout=2), "dropout"),
    "dropout -0.1": (construct(4, 3, 2, dropout=-0.1), "dropout"),
    "dropout True": (construct(4, 3, 2, dropout=True), "dropout"),
    "dropout str": (construct(4, 3, 2, dropout="half"), "dropout|half"),
    "unknown option": (construct(4, 3, peepholes=True), "peephole"),
    "no hidden_size": (construct(4), "hidden_size"),
    "no sizes": (construct(), "input_size.*hidden_size"),
    "dtype int": (construct(4, 3, dtype=torch.int64), "floating"),
    "unknown device": (construct(4, 3, device="abacus"), "device|abacus"),
    "nonlinearity": (construct(4, 3, nonlinearity="sigmoid"), "nonlinearity"),
    "nonlinearity None": (construct(4, 3, nonlinearity=None), "nonlinearity"),
    "nonlinearity by position": (construct(4, 3, 1, "sigmoid"), "sigmoid|bool"),
    "too many": (construct(4, 3, 1, *range(20)), ""),
    "proj_size": (construct(4, 3, proj_size=3), "proj_size"),
    "proj_size negative": (construct(4, 3, proj_size=-1), "proj_size"),
}

WRONG_PROJECTIONS = {
    "proj_size": (construct(4, 3, proj_size=2), "proj_size.*LSTM"),
    "proj_size 0": (construct(4, 3, proj_size=0), "proj_size.*LSTM"),
}


def cell(*make_args):
    return lambda space, name: getattr(space, name)(4, 3)(*[make(name) for make in make_args])


WRONG_CELL_CALLS = {
    "rank 3": (cell(x(1, 2, 4)), "1D.*2D.*3D"),
    "rank 0": (cell(given(torch.ones(()))), "1D.*2D.*0D"),
    "features": (cell(x(2, 7)), "input_size.*7"),
    "hx features": (cell(x(2, 4), hx(2, 5)), "5"),
    "hx batch": (cell(x(2, 4), hx(3, 3)), r"2\D.*3"),
    "hx rank": (cell(x(2, 4), hx(1, 2, 3)), "1D.*2D.*3D"),
    "hx unbatched": (cell(x(2, 4), hx(3)), "2"),
    "hx batched, input not": (cell(x(4), hx(1, 3)), "1"),
    "hx is f64": (cell(x(2, 4), hx(2, 3, dtype=torch.float64)), "dtype|float64"),
    "input is f64": (cell(x(2, 4, dtype=torch.float64)), "float64.*float32"),
    "input is integer": (cell(given(torch.ones(2, 4, dtype=torch.int64))), "int64.*float32"),
    "input is None": (cell(given(None)), "input|dim"),
    "hx on another device": (cell(x(2, 4), hx(2, 3, device="meta")), "device.*meta|meta.*device"),
    "no hidden_size": (construct(4), "hidden_size"),
    "proj_size": (construct(4, 3, proj_size=2), "proj_size"),
    "hidden_size -1": (construct(4, -1), ""),
    "input_size float": (construct(4.0, 3), ""),
    "nonlinearity": (
        lambda space, name: getattr(space, name)(4, 3, nonlinearity="x")(torch.ones(2, 4)),
        "nonlinearity",
    ),
}

WRONG_LSTM_CELL_CALLS = {
    "hx is a tensor": (cell(x(2, 4), given(torch.ones(2, 3))), "hx"),
    "one state": (cell(x(2, 4), given((torch.ones(2, 3),))), "two|1"),
    "three states": (cell(x(2, 4), given((torch.ones(2, 3),) * 3)), "two|3"),
    "cx features": (cell(x(2, 4), given((torch.ones(2, 3), torch.ones(2, 4)))), "4"),
    "cx batch": (cell(x(2, 4), given((torch.ones(2, 3), torch.ones(3, 3)))), r"2\D.*3"),
}


def rows(names, *tables):
    return [pytest.param(n, *row, id=f"{n}-{what}") for n in names for t in tables for what, row in t.items()]


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    rows(LAYERS, WRONG_LAYER_CALLS, WRONG_CONSTRUCTIONS)
    + rows(("LSTM",), WRONG_LSTM_CALLS)
    + rows(("RNN", "GRU"), WRONG_STATE_KINDS, WRONG_PROJECTIONS)
    + rows(CELLS, WRONG_CELL_CALLS)
    + rows(("LSTMCell",), WRONG_LSTM_CELL_CALLS),
)
def test_type_is_torchs_and_message_says_what(name, wrong, says):
    with pytest.raises(Exception) as theirs:
        wrong(nn, name)
    with pytest.raises(theirs.type, match=f"(?s){says}") as ours:
        wrong(fastrnn, name)
    assert not isinstance(ours.value, AssertionError), "a failed check of our own is no message to a user"


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_with_one_layer_warns(layer):
    with pytest.warns(UserWarning, match="dropout") as theirs:
        getattr(nn, layer)(4, 3, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout") as ours:
        getattr(fastrnn, layer)(4, 3, dropout=0.5)
    assert len(theirs) == len(ours) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        getattr(fastrnn, layer)(4, 3, 2, dropout=0.5)


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128), ids=str)
def test_dtype_without_kernels(name, dtype):
    module = getattr(fastrnn, name)(4, 3, dtype=dtype)
    with pytest.raises(NotImplementedError, match=r"float32.*float64") as error:
        module(torch.randn(2, 4, dtype=dtype))
    assert str(dtype) in str(error.value)


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_script_is_refused(name):
    module = getattr(fastrnn, name)(4, 3)
    for wrapped in (module, nn.Sequential(module)):
        with pytest.raises(NotImplementedError, match=rf"torch\.jit\.script.*{name}.*torch\.compile.*to_torch"):
            torch.jit.script(wrapped)


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_quantize_dynamic_is_refused(name):
    model = nn.Sequential(getattr(fastrnn, name)(4, 3))
    with pytest.raises(NotImplementedError, match=f"{name}.*quantized"):
        torch.ao.quantization.quantize_dynamic(model, {getattr(fastrnn, name)}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_quantize_dynamic_of_a_whole_model_says_what_it_leaves_alone():
    model = nn.ModuleList([fastrnn.LSTM(4, 3), nn.Linear(3, 2), fastrnn.GRUCell(4, 3)])
    with pytest.warns(UserWarning, match=r"stays in floating point.*fastrnn\.to_torch\(model\)") as caught:
        quantized = torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)
    ours = [warning for warning in caught if "stays in floating point" in str(warning.message)]
    assert [str(warning.message)[:4] for warning in ours] == ["LSTM", "GRUC"]
    assert all("quantization" in warning.filename for warning in ours), "they blame what did not ask"
    value = torch.randn(5, 2, 4)
    assert torch.equal(quantized[0](value)[0], model[0](value)[0])
    assert type(quantized[1]) is not nn.Linear


@pytest.mark.parametrize("layer", LAYERS)
def test_a_refused_call_leaves_the_layer_usable(layer):
    module = getattr(fastrnn, layer)(4, 3)
    value = torch.randn(5, 2, 4)
    before = module(value)[0]
    for wrong in (torch.randn(5, 2, 7), torch.randn(0, 2, 4), torch.randn(4)):
        with pytest.raises((RuntimeError, ValueError)):
            module(wrong)
    assert torch.equal(module(value)[0], before)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("zone_out", "zoneout"),
        ("layernorm", "layer_norm"),
        ("hiddensize", "hidden_size"),
        ("batchfirst", "batch_first"),
    ],
)
def test_unknown_keywords_are_guessed(layer, given, meant):
    with pytest.raises(TypeError, match=rf"{layer} .*keyword argument '{given}'\. Did you mean '{meant}'\?"):
        getattr(fastrnn, layer)(5, 4, **{given: 1})
    with pytest.raises(TypeError, match=r"'colour'\. fastrnn\.Options has"):
        getattr(fastrnn, layer)(5, 4, colour=1)


def test_zoneout_as_a_list():
    assert fastrnn.LSTM(5, 4, zoneout=[0.1, 0.2]).options == fastrnn.Options(zoneout=(0.1, 0.2))
    with pytest.raises(ValueError, match="pair"):
        fastrnn.LSTM(5, 4, zoneout=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.parametrize("dtype", (torch.int64, torch.uint8, torch.complex64), ids=str)
def test_no_model_is_advised_that_cannot_be(name, dtype):
    with pytest.raises((ValueError, RuntimeError), match=r"input\.to\(torch\.float32\)$"):
        getattr(fastrnn, name)(4, 3)(torch.ones(2, 4).to(dtype))


@pytest.mark.parametrize("name", (*LAYERS, *CELLS))
@pytest.mark.parametrize("weight", ("weight_ih", "weight_hh", "bias_hh"))
def test_a_weight_set_to_none(name, weight):
    module = getattr(fastrnn, name)(4, 3)
    setattr(module, weight + "_l0" * (name in LAYERS), None)
    with pytest.raises(TypeError, match=f"{name}: a weight is None.*Set a Parameter"):
        module(torch.randn(2, 4))


@pytest.mark.parametrize("resets", (np.zeros((5, 2), bool), [[False, False]] * 5), ids=("array", "list"))
def test_resets_that_are_no_tensor(resets):
    with pytest.raises(TypeError, match=r"resets must be a Tensor of bool.*Convert: torch\.as_tensor") as error:
        fastrnn.GRU(4, 3)(torch.randn(5, 2, 4), resets=resets)
    converted = eval(str(error.value).split("Convert: ")[-1], {"torch": torch, "resets": resets})
    fastrnn.GRU(4, 3)(torch.randn(5, 2, 4), resets=converted)


def test_a_wrong_reset_state_is_called_that():
    value, resets = torch.randn(5, 2, 4), torch.zeros(5, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=r"LSTM: reset_state must be a tuple \(h, c\), got a Tensor"):
        fastrnn.LSTM(4, 3)(value, resets=resets, reset_state=torch.zeros(1, 2, 3))
    with pytest.raises(AttributeError, match="GRU: reset_state must be a Tensor, got tuple"):
        fastrnn.GRU(4, 3)(value, resets=resets, reset_state=(torch.zeros(1, 2, 3),))


class TestAssignedSettings:
    """What is assigned after construction takes effect or is refused, but never ignored."""

    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize("option", NAMES)
    def test_options_are_refused_and_the_message_helps(self, layer, option):
        module = getattr(fastrnn, layer)(5, 4)
        with pytest.raises(AttributeError, match=rf"{layer}: {option} .*dataclasses\.replace") as error:
            setattr(module, option, 0.3)
        assert not hasattr(module, option)
        if (layer, option) == ("LSTM", "zoneout"):
            exec(str(error.value).split(": ")[-1], {"layer": module, "dataclasses": dataclasses, "fastrnn": fastrnn})
            assert module.options == fastrnn.Options(zoneout=0.3)

    def test_subclasses_may_have_attributes_of_their_own(self):
        class Mine(fastrnn.LSTM):
            def __init__(self):
                super().__init__(5, 4)
                self.layer_norm = nn.LayerNorm(4)
                self.zoneout = 0.5

            def forward(self, value):
                return self.layer_norm(super().forward(value)[0]) * self.zoneout

        module, value = Mine(), torch.randn(9, 2, 5)
        assert dict(module.named_modules())["layer_norm"] is module.layer_norm
        assert torch.equal(module(value), module.layer_norm(fastrnn.LSTM.forward(module, value)[0]) * 0.5)

    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize(
        ("setting", "value", "options"),
        [("batch_first", True, {}), ("dropout", 0.5, {}), ("dropout", 0.0, {"dropout": 0.5})],
        ids=str,
    )
    def test_settings_that_take_effect(self, layer, setting, value, options):
        theirs = getattr(nn, layer)(5, 4, 2, **options)
        ours = fastrnn.convert(copy.deepcopy(theirs))
        results = []
        for module in (theirs, ours):
            setattr(module, setting, value)
            torch.manual_seed(0)
            results.append(module(torch.linspace(-1, 1, 90).view(9, 2, 5))[0])
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize("layer", LAYERS)
    @pytest.mark.parametrize(
        ("setting", "value"),
        [("bidirectional", True), ("num_layers", 2), ("hidden_size", 3), ("input_size", 7), ("proj_size", 2)],
    )
    def test_settings_that_the_weights_do_not_fit(self, layer, setting, value):
        module = getattr(fastrnn, layer)(5, 4)
        setattr(module, setting, value)
        with pytest.raises(RuntimeError):
            module(torch.randn(9, 2, 5))

    def test_settings_without_effect_are_refused(self):
        with pytest.raises(AttributeError, match=r"bias is fixed at construction.*bias=False"):
            fastrnn.LSTM(5, 4).bias = False
        module = fastrnn.RNN(5, 4)
        module.nonlinearity = "tanh"
        with pytest.raises(AttributeError, match=r"nonlinearity is fixed at construction.*'relu'"):
            module.nonlinearity = "relu"
