"""convert, to_torch and patched: models change hands, and nothing else about them changes."""

import copy
import io

import pytest
import torch
from cases import CELLS, LAYERS
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._pytree import tree_leaves

import fastrnn
from fastrnn import adopted

NAMES = (*LAYERS, *CELLS)
by_name = pytest.mark.parametrize("name", NAMES)


class Tagger(nn.Module):
    """A model in which a layer stands twice, and a cell's weights are another's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.encoder = nn.ModuleDict({"lstm": nn.LSTM(6, 4, 2, bidirectional=True), "gru": nn.GRU(8, 8)})
        self.again = self.encoder["gru"]
        self.first, self.second = nn.GRUCell(8, 8), nn.GRUCell(8, 8)
        self.second.weight_hh = self.first.weight_hh
        self.head = nn.Linear(8, 3)

    def forward(self, words):
        states, _ = self.encoder["lstm"](self.embedding(words))
        states, _ = self.again(self.encoder["gru"](states)[0])
        return self.head(self.second(self.first(states[-1])))


class Outputs(nn.Module):
    """torch.jit.script wants no overloaded forward in front."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, value: torch.Tensor):
        return self.gru(value)[0]


def build(name, **keywords):
    return getattr(nn, name)(3, 4, **keywords)


def value_of(name):
    return torch.randn(5, 2, 3) if name in LAYERS else torch.randn(2, 3)


def same(actual, expected):
    for ours, theirs in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


class TestConvert:
    def test_a_model(self):
        model, words = Tagger(), torch.randint(11, (7, 2))
        expected, parameters, keys = model(words), list(model.parameters()), list(model.state_dict())
        converted, report = fastrnn.convert(model, report=True)
        assert converted is model
        assert report.converted == {
            "encoder.lstm": "fastrnn.LSTM",
            "encoder.gru": "fastrnn.GRU",
            "first": "fastrnn.GRUCell",
            "second": "fastrnn.GRUCell",
        }
        assert not report.left
        assert model.again is model.encoder["gru"]
        assert model.second.weight_hh is model.first.weight_hh
        assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
        assert list(model.state_dict()) == keys
        same(model(words), expected)

    @by_name
    def test_a_layer_by_itself(self, name):
        layer, value = build(name), value_of(name)
        expected, shown = layer(value), repr(layer)
        assert fastrnn.convert(layer) is layer
        assert type(layer) is getattr(adopted, name)
        assert repr(layer) == shown
        same(layer(value), expected)
        assert "none" not in {row.path for row in fastrnn.explain(layer, value).rows}

    @pytest.mark.parametrize(
        "keywords",
        [
            {"num_layers": 2, "bidirectional": True, "batch_first": True},
            {"bias": False},
            {"proj_size": 2},
            {"dtype": torch.float64},
        ],
        ids=str,
    )
    def test_settings_stay(self, keywords):
        layer = build("LSTM", **keywords)
        value = torch.randn(5, 2, 3, dtype=keywords.get("dtype"))
        expected = layer(value)
        same(fastrnn.convert(layer)(value), expected)

    def test_relu(self):
        layer, value = build("RNN", nonlinearity="relu"), value_of("RNN")
        expected = layer(value)
        same(fastrnn.convert(layer)(value), expected)
        assert layer.nonlinearity == "relu"

    def test_an_optimizer_goes_on(self):
        words, labels = torch.randint(11, (7, 2)), torch.tensor([0, 2])
        torch.manual_seed(0)
        plain = Tagger()
        model = copy.deepcopy(plain)

        def train(model, between):
            optimizer = torch.optim.Adam(model.parameters(), 0.01)
            for step in range(6):
                if step == 3:
                    between(model)
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(words), labels).backward()
                optimizer.step()
            return list(model.parameters())

        same(train(model, fastrnn.convert), train(plain, lambda _: None))

    def test_hooks_stay(self):
        layer, seen = build("GRU"), []
        layer.register_forward_hook(lambda module, inputs, outputs: seen.append(module))
        layer.weight_hh_l0.register_hook(lambda grad: grad * 2)
        value = value_of("GRU")
        layer(value)[0].sum().backward()
        doubled, layer.weight_hh_l0.grad = layer.weight_hh_l0.grad, None
        fastrnn.convert(layer)(value)[0].sum().backward()
        assert seen == [layer, layer]
        torch.testing.assert_close(layer.weight_hh_l0.grad, doubled)

    @pytest.mark.parametrize("name", ("GRU", "LSTMCell"))
    def test_parametrizations_stay(self, name):
        weight = "weight_hh_l0" if name in LAYERS else "weight_hh"
        layer = parametrizations.orthogonal(build(name), weight)
        layer = parametrizations.weight_norm(layer, weight.replace("hh", "ih"))
        fastrnn.convert(layer)
        assert isinstance(layer, getattr(fastrnn, name))
        assert parametrize.is_parametrized(layer, weight)
        plain = build(name)
        plain.load_state_dict({key: getattr(layer, key).detach() for key in plain.state_dict()})
        value = value_of(name)
        same(layer(value), plain(value))
        torch.manual_seed(0)
        originals = [p for key, p in layer.named_parameters() if "original" in key]
        assert originals
        torch.autograd.grad(tree_leaves(layer(value))[0].sum(), originals)
        for key in (weight, weight.replace("hh", "ih")):
            parametrize.remove_parametrizations(layer, key)
        assert type(layer) is getattr(adopted, name)
        same(layer(value), plain(value))

    def test_pruning_stays(self):
        layer = build("GRU")
        prune.random_unstructured(layer, "weight_hh_l0", 0.5)
        value = value_of("GRU")
        fastrnn.convert(layer)
        assert hasattr(layer, "weight_hh_l0_mask")
        plain = build("GRU")
        plain.load_state_dict({key: getattr(layer, key).detach() for key in plain.state_dict()})
        same(layer(value), plain(value))

    def test_subclasses_are_left_and_listed(self):
        class Mine(nn.LSTM):
            pass

        model = nn.Sequential(Mine(3, 4), nn.Linear(3, 3), nn.GRUCell(3, 4))
        _, report = fastrnn.convert(model, report=True)
        assert type(model[0]) is Mine
        assert list(report.converted) == ["2"]
        assert list(report.left) == ["0"]
        assert "Mine" in str(report)

    @pytest.mark.filterwarnings("ignore:.*torch.jit")
    def test_what_is_scripted_is_left(self):
        _, report = fastrnn.convert(torch.jit.script(nn.Sequential(nn.LSTM(3, 4))), report=True)
        assert report.left == {"0": "torch.jit has compiled this LSTM. Convert before scripting"}

    def test_what_is_to_be_quantized_is_left(self):
        layer = build("LSTM")
        layer.qconfig = torch.ao.quantization.default_dynamic_qconfig
        _, report = fastrnn.convert(layer, report=True)
        assert type(layer) is nn.LSTM
        assert "quantize" in report.left[""]

    def test_what_has_no_kernels_is_left(self):
        layer = build("LSTM", device="meta")
        fastrnn.convert(layer)  # meta tensors have shapes, which is all they need
        assert type(layer) is adopted.LSTM

    @by_name
    def test_a_forward_set_on_the_object_is_left(self, name):
        """As accelerate's hooks set it: the forward that they call is bound to the class of that time."""
        layer, value = build(name), value_of(name)
        before = layer.forward
        layer.forward = lambda *args: before(*args)
        model = nn.ModuleList([layer])
        expected = layer(value)
        _, report = fastrnn.convert(model, report=True)
        assert type(layer) is getattr(nn, name)
        assert not report.converted
        assert "forward was replaced" in report.left["0"]
        same(layer(value), expected)
        del layer.forward
        fastrnn.convert(layer)
        assert type(layer) is getattr(adopted, name)

    @by_name
    @pytest.mark.parametrize("dtype", (torch.complex64, torch.float8_e5m2), ids=str)
    @pytest.mark.filterwarnings("ignore:Complex modules")
    def test_what_a_call_would_refuse_is_left(self, name, dtype):
        layer = build(name).to(dtype)
        _, report = fastrnn.convert(layer, report=True)
        assert type(layer) is getattr(nn, name)
        assert str(dtype) in report.left[""]
        mixed = build(name)
        next(mixed.parameters()).data = next(mixed.parameters()).data.double()
        _, report = fastrnn.convert(mixed, report=True)
        assert "differ in dtype" in report.left[""]

    def test_twice(self):
        model = fastrnn.convert(Tagger())
        _, report = fastrnn.convert(model, report=True)
        assert not report.converted
        assert not report.left
        assert str(report) == "no recurrent modules"

    def test_pickle_and_copy(self):
        layer, value = fastrnn.convert(build("LSTM")), torch.randn(5, 2, 3)
        same(copy.deepcopy(layer)(value), layer(value))
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        same(torch.load(file, weights_only=False)(value), layer(value))

    @pytest.mark.parametrize("function", (fastrnn.convert, fastrnn.to_torch))
    def test_takes_modules_alone(self, function):
        with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, got dict"):
            function({})


class TestToTorch:
    @by_name
    def test_back(self, name):
        layer, value = getattr(fastrnn, name)(3, 4), value_of(name)
        expected = layer(value)
        assert fastrnn.to_torch(layer) is layer
        assert type(layer) is getattr(nn, name)
        same(layer(value), expected)
        assert fastrnn.to_torch(layer) is layer
        same(fastrnn.convert(layer)(value), expected)

    def test_trains_and_moves(self):
        model, words = fastrnn.to_torch(fastrnn.convert(Tagger())), torch.randint(11, (7, 2))
        model.double()
        model(words).sum().backward()
        assert model.encoder["lstm"].weight_hh_l0.grad.dtype == torch.float64

    def test_packed_weights_are_dropped(self):
        layer, value = fastrnn.LSTM(3, 4).pack_weights(), torch.randn(5, 2, 3)
        fastrnn.to_torch(layer)
        with torch.no_grad():
            layer.weight_hh_l0.zero_()
            same(fastrnn.convert(layer)(value), nn.utils.stateless.functional_call(layer, {}, (value,)))

    def test_a_forward_set_on_the_object(self):
        model = nn.Sequential(fastrnn.GRU(3, 3), fastrnn.LSTM(3, 4))
        model[1].forward = model[1].forward
        with pytest.raises(ValueError, match="to_torch: 1 cannot change, its forward was replaced"):
            fastrnn.to_torch(model)
        assert type(model[0]) is fastrnn.GRU

    def test_script(self):
        model, words = fastrnn.to_torch(fastrnn.convert(Outputs())), torch.randn(5, 2, 3)
        same(torch.jit.script(model)(words), model(words))

    @pytest.mark.parametrize(
        "theirs",
        (lambda: fastrnn.LSTM(3, 4, zoneout=0.1), lambda: fastrnn.JordanRNN(3, 4, 2)),
        ids=("options", "Jordan"),
    )
    def test_what_torch_lacks(self, theirs):
        model = nn.Sequential(fastrnn.GRU(3, 3), theirs())
        with pytest.raises(ValueError, match=r"torch\.nn has nothing like it"):
            fastrnn.to_torch(model)
        assert type(model[0]) is fastrnn.GRU
