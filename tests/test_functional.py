"""fastrnn.functional: the same results as the modules, from weights in a list."""

import pytest
import torch
from cases import LAYERS, Case, assert_same, call_product, case_tolerance, flatten, make_leaves
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from fastrnn import functional

FUNCTIONS = {"RNN": functional.rnn, "LSTM": functional.lstm, "GRU": functional.gru}


@pytest.mark.parametrize("case", [c for layer in LAYERS for c in call_product(layer)], ids=str)
def test_equals_torch(case):
    module = case.build(torch.float64)
    leaves, lengths = make_leaves(case, torch.float64), case.lengths
    value, hx = leaves["input"], leaves.get("hx")
    if lengths is not None:
        value = pack_padded_sequence(value, lengths, module.batch_first, case.layout == "packed")
    if "cx" in leaves:
        hx = (hx, leaves["cx"])
    with torch.no_grad():
        expected = flatten(module(value, hx))
        actual = flatten(FUNCTIONS[case.layer](value, hx, list(module.parameters()), **case.options))
    assert_same(expected, actual, case_tolerance(case, torch.float64))


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_reach_every_tensor(layer):
    case = Case(layer, {"num_layers": 2, "bidirectional": True})
    weights = [w.detach().requires_grad_() for w in case.build(torch.float64).parameters()]
    leaves = {name: leaf.requires_grad_() for name, leaf in make_leaves(case, torch.float64).items()}
    hx = (leaves["hx"], leaves["cx"]) if layer == "LSTM" else leaves["hx"]
    outputs = flatten(FUNCTIONS[layer](leaves["input"], hx, weights, **case.options))
    sum(output.square().sum() for output in outputs.values()).backward()
    for tensor in (*leaves.values(), *weights):
        assert tensor.grad is not None
        assert tensor.grad.abs().max() > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_dropout_only_in_training(layer):
    case = Case(layer, {"num_layers": 2, "dropout": 0.5})
    module = case.build(torch.float64)
    value, weights = (make_leaves(case, torch.float64)["input"], list(module.parameters()))
    for training in (True, False):
        module.train(training)
        torch.manual_seed(5)
        expected = module(value)[0]
        torch.manual_seed(5)
        actual = FUNCTIONS[layer](value, None, weights, training=training, **case.options)[0]
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("batched", (True, False))
def test_cells(batched):
    shape = (3,) if batched else ()
    value = torch.randn(*shape, 4, dtype=torch.float64)
    hx, cx = torch.randn(2, *shape, 5, dtype=torch.float64)
    for name, function, state in (
        ("RNNCell", functional.rnn_cell, hx),
        ("GRUCell", functional.gru_cell, hx),
        ("LSTMCell", functional.lstm_cell, (hx, cx)),
    ):
        module = getattr(nn, name)(4, 5, dtype=torch.float64)
        for given in (state, None):
            expected, actual = (
                flatten(module(value, given)),
                flatten(function(value, given, list(module.parameters()))),
            )
            assert_same(expected, actual, 1e-13)


def test_wrong_arguments():
    weights = list(nn.LSTM(4, 5).parameters())
    with pytest.raises(ValueError, match="weights"):
        functional.lstm(torch.randn(2, 4), None, weights[:-1])
    with pytest.raises(ValueError, match="nonlinearity"):
        functional.rnn(torch.randn(2, 4), None, list(nn.RNN(4, 5).parameters()), nonlinearity="sigmoid")
