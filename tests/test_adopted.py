"""What convert and patched make is torch.nn's, too: what code that asks isinstance() gets, and Dynamo."""

import copy
import pickle

import pytest
import torch
from cases import LAYERS
from test_adopt import build, by_name, same, value_of
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils._pytree import tree_leaves

import fastrnn
from fastrnn import adopted


class TestBoth:
    @by_name
    def test_isinstance(self, name):
        theirs, value = getattr(nn, name), value_of(name)
        layer = build(name)
        expected = layer(value)
        fastrnn.convert(layer)
        with fastrnn.patched():
            built = build(name)
        for module in (layer, built, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert isinstance(module, theirs)
            assert isinstance(module, getattr(fastrnn, name))
            assert isinstance(module, nn.RNNBase if name in LAYERS else nn.RNNCellBase)
        built.load_state_dict(layer.state_dict())
        same(built(value), expected)
        assert not isinstance(getattr(fastrnn, name)(3, 4), theirs), "torch.compile would leave it out of its graphs"

    @by_name
    def test_options_are_taken(self, name):
        if name in LAYERS:
            layer = getattr(adopted, name)(3, 4, 2, bidirectional=True, zoneout=0.1)
            assert layer.options.zoneout == 0.1
            assert layer(value_of(name))[0].shape == (5, 2, 8)
        else:
            assert not getattr(adopted, name)(3, 4, bias=False).bias

    @by_name
    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_script(self, name):
        """As robots' policies are exported. torch leaves in the model what it compiled: torch.nn's."""
        model, value = nn.Sequential(build(name)), value_of(name)
        fastrnn.convert(model)
        layer, expected = model[0], model(value)
        with pytest.warns(UserWarning, match=rf"torch\.nn\.{name}, with the same parameters.*fastrnn\.convert"):
            scripted = torch.jit.script(model)
        same(scripted(value), expected)
        same(layer(value), expected)
        assert type(model[0]) is getattr(nn, name)
        for parameter in layer.parameters():
            parameter.data.mul_(0.5)
        for other in (scripted, model, fastrnn.convert(model)):
            same(other(value), layer(value))

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_script_is_refused_where_torch_has_nothing_like_it(self):
        layer = adopted.LSTM(3, 4, zoneout=0.1)
        with pytest.raises(NotImplementedError, match=r"torch\.jit\.script"):
            torch.jit.script(layer)

    @by_name
    def test_fullgraph(self, name):
        """Compiled without a break and trained, beside a layer of torch.nn's that nobody converted."""
        torch._dynamo.reset()
        layer, beside = fastrnn.convert(build(name), fullgraph=True), nn.LSTM(4, 2)
        assert type(layer) is getattr(fastrnn, name)
        function = torch.compile(lambda value: tree_leaves(layer(value))[0], backend="aot_eager", fullgraph=True)
        value = value_of(name)
        same(function(value), tree_leaves(layer(value))[0])
        beside(function(value))[0].sum().backward()
        assert all(parameter.grad is not None for parameter in (*layer.parameters(), *beside.parameters()))

    @by_name
    def test_from_both_to_fullgraph_and_back(self, name):
        layer, value = fastrnn.convert(build(name)), value_of(name)
        expected = layer(value)
        _, report = fastrnn.convert(layer, report=True, fullgraph=True)
        assert report.converted == {"": f"fastrnn.{name}"}
        assert type(layer) is getattr(fastrnn, name)
        same(layer(value), expected)
        assert type(fastrnn.to_torch(fastrnn.convert(build(name)))) is getattr(nn, name)

    @pytest.mark.parametrize("name", LAYERS)
    def test_dynamo_leaves_them_out_and_one_warning_says_so(self, name):
        torch._dynamo.reset()
        adopted._warn_of_graph_breaks.cache_clear()
        model, value = nn.Sequential(fastrnn.convert(build(name))), torch.randn(5, 2, 3)
        function, expected = torch.compile(lambda value: model(value + 1), backend="eager"), model(value + 1)
        with pytest.warns(UserWarning, match=r"fastrnn\.convert\(model, fullgraph=True\)") as caught:
            results = [function(value) for _ in range(2)]
        same(results, [expected] * 2)
        assert len([warning for warning in caught if "fullgraph" in str(warning.message)]) == 1
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(lambda value: model(value + 1), backend="eager", fullgraph=True)(value)

    @pytest.mark.parametrize("name", LAYERS)
    def test_no_warning_without_compilation(self, name, recwarn):
        adopted._warn_of_graph_breaks.cache_clear()
        fastrnn.convert(build(name))(torch.randn(5, 2, 3))
        assert not [warning for warning in recwarn if "graph" in str(warning.message)]


def states_of_a_batch(layer, rows):
    """pfrl's RecurrentSequential, rsl-rl's export, easyocr: the LSTM has two."""
    if isinstance(layer, nn.LSTM):
        return torch.zeros(1, rows, 4), torch.zeros(1, rows, 4)
    if isinstance(layer, (nn.RNN, nn.GRU)):
        return torch.zeros(1, rows, 4)
    raise TypeError(layer)


def refuse_what_is_unknown(layer):
    """pytorch-widedeep."""
    if not isinstance(layer, (nn.LSTM, nn.GRU)):
        raise ValueError("rnn should be either nn.LSTM or nn.GRU")


def initialised(model):
    """transformers' _init_weights, kraken, nemo: orthogonal recurrent weights, zero biases."""
    for module in model.modules():
        if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
            for name, parameter in module.named_parameters():
                if "weight_hh" in name:
                    nn.init.orthogonal_(parameter)
                elif "bias" in name:
                    nn.init.zeros_(parameter)
    return model


def normed(model):
    """Encodec: weight norm on each layer's weights."""
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            parametrizations.weight_norm(module, "weight_hh_l0")
    return model


def hidden_of(layer, hx):
    """OpenNMT, espnet's beam search, deep-river: which of the states is the output."""
    return hx[0] if isinstance(layer, nn.LSTM) else hx


class TestIdioms:
    """What projects ask of layers, which was answered wrongly, or silently not at all."""

    @pytest.mark.parametrize("name", LAYERS)
    def test_states(self, name):
        layer = fastrnn.convert(build(name))
        output, hx = layer(torch.randn(1, 2, 3), states_of_a_batch(layer, 2))
        same(hidden_of(layer, hx)[0], output[0])

    @pytest.mark.parametrize("name", ("LSTM", "GRU"))
    def test_refusals(self, name):
        refuse_what_is_unknown(fastrnn.convert(build(name)))

    @pytest.mark.parametrize("name", LAYERS)
    def test_initialisers(self, name):
        model = initialised(nn.Sequential(fastrnn.convert(build(name))))
        assert not model[0].bias_hh_l0.any()
        weight = model[0].weight_hh_l0.detach()
        torch.testing.assert_close(weight.T @ weight, torch.eye(4))

    def test_weight_norm(self):
        layer, value = build("LSTM"), torch.randn(5, 2, 3)
        expected = layer(value)
        model = normed(nn.Sequential(fastrnn.convert(layer)))
        assert parametrize.is_parametrized(model[0], "weight_hh_l0")
        same(model(value), expected)
