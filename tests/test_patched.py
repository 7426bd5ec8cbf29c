"""fastrnn.patched: code that builds its own layers builds ours within the block, and afterwards torch.nn's again."""

import sys
import types

import pytest
import torch
from cases import LAYERS, flatten
from test_adopt import NAMES, Tagger, build, by_name, same, value_of
from torch import nn

import fastrnn
from fastrnn import adopted

REAL = {name: getattr(nn, name) for name in NAMES}


def test_what_is_built_within():
    torchs = {name: getattr(nn, name) for name in NAMES}
    with fastrnn.patched():
        for name in NAMES:
            assert type(build(name)) is getattr(adopted, name)
        model = Tagger()
        assert isinstance(model.encoder["lstm"], nn.LSTM)
    assert {name: getattr(nn, name) for name in NAMES} == torchs
    assert isinstance(model.encoder["lstm"], fastrnn.LSTM)


def test_within_itself_and_after_an_error():
    theirs = nn.LSTM
    with pytest.raises(KeyError), fastrnn.patched(), fastrnn.patched():
        raise KeyError
    assert nn.LSTM is theirs


def test_every_home_of_the_classes():
    with fastrnn.patched():
        assert nn.modules.LSTM is nn.modules.rnn.LSTM is nn.LSTM is adopted.LSTM
    assert nn.modules.LSTM is nn.modules.rnn.LSTM is nn.LSTM
    assert nn.LSTM.__module__ == "torch.nn.modules.rnn"


def test_names_bound_before(monkeypatch):
    """As torch-geometric and openunmix bind them."""
    package, module, other = (types.ModuleType(name) for name in ("its", "its.layers", "another"))
    module.LSTM, module.Gate, other.GRU = nn.LSTM, nn.GRUCell, nn.GRU
    for each in (package, module, other):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    with fastrnn.patched("its") as found:
        assert (module.LSTM, module.Gate) == (adopted.LSTM, adopted.GRUCell)
        assert other.GRU.__module__ == "torch.nn.modules.rnn"
    assert (module.LSTM, module.Gate) == (nn.LSTM, nn.GRUCell)
    assert found.patched["its.layers"] == ["LSTM", "Gate"]
    assert found.missed["another"] == ["GRU"]
    assert "another: GRU torch.nn's still" in str(found)
    with pytest.raises(ValueError, match="nothing of 'nobodys' is imported"), fastrnn.patched("nobodys"):
        pass
    assert nn.LSTM.__module__ == "torch.nn.modules.rnn"


class Lazy(dict):
    """As transformers' tables of models, which import them."""

    def items(self):
        raise ImportError


def test_classes_and_tables_that_hold_them(monkeypatch):
    """As tsai and PyPOTS do."""
    source = "from torch import nn\nclass Tagger:\n  cell, others = nn.LSTM, {1: nn.RNN}\nCELLS = {'gru': nn.GRUCell}"
    package, late = types.ModuleType("its"), types.ModuleType("late")
    monkeypatch.setitem(sys.modules, "its", package)
    exec(source, vars(package))
    package.LAZY = Lazy()
    with fastrnn.patched("its") as found:
        monkeypatch.setitem(sys.modules, "late", late)
        exec(source, vars(late))
        assert (package.Tagger.cell, package.Tagger.others[1]) == (adopted.LSTM, adopted.RNN)
        assert package.CELLS["gru"] is adopted.GRUCell
    for module in (package, late):
        assert (module.Tagger.cell, module.Tagger.others[1]) == (REAL["LSTM"], REAL["RNN"])
        assert module.CELLS["gru"] is REAL["GRUCell"]
    assert found.patched["its.Tagger"] == ["cell"]
    assert found.patched["its.CELLS"] == ["gru"]


def test_names_bound_within(monkeypatch):
    """By a module that is imported for the first time; and none too soon where a block is within another."""
    lazy = types.ModuleType("lazy")
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    with fastrnn.patched():
        with fastrnn.patched():
            exec("from torch.nn import LSTM, GRUCell as Gate", lazy.__dict__)
            assert lazy.LSTM is adopted.LSTM
        assert (lazy.LSTM, lazy.Gate) == (REAL["LSTM"], REAL["GRUCell"])
        assert nn.LSTM is adopted.LSTM
    assert (lazy.LSTM, lazy.Gate, nn.LSTM) == (REAL["LSTM"], REAL["GRUCell"], REAL["LSTM"])


def test_what_was_built_is_told():
    """As fastrnn's or, by a name bound before or in a subclass, as torch.nn's still."""
    before, model = nn.GRUCell, nn.Module()

    class Mine(nn.LSTM):
        pass

    with fastrnn.patched() as found:
        model.encoder, model.step = nn.LSTM(3, 4), before(3, 4)
        model.head = nn.Linear(4, 2)
        nn.Sequential(nn.RNN(3, 4), Mine(3, 4))
    model.late = nn.LSTM(3, 4)
    assert found.built.pop("Sequential.1").endswith(".Mine")
    assert found.built == {
        "Module.encoder": "fastrnn.LSTM",
        "Module.step": "torch.nn.modules.rnn.GRUCell",
        "Sequential.0": "fastrnn.RNN",
    }
    assert "Module.step: built as torch.nn.modules.rnn.GRUCell" in str(found).splitlines()


def test_fullgraph():
    with fastrnn.patched(fullgraph=True) as found:
        assert type(nn.Sequential(nn.LSTM(3, 4))[0]) is fastrnn.LSTM
    assert found.built == {"Sequential.0": "fastrnn.LSTM"}


def test_subclasses_made_within():
    with fastrnn.patched():

        class Mine(nn.LSTM):
            pass

    assert issubclass(Mine, fastrnn.LSTM)
    assert Mine(3, 4)(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


@by_name
@pytest.mark.parametrize("packs", (False, True), ids=("padded", "packed"))
def test_a_subclass_with_a_copy_of_torchs_forward(name, packs):
    forward = getattr(nn, name).forward
    with fastrnn.patched():
        copied = type("Mine", (getattr(nn, name),), {"forward": forward})
    assert issubclass(copied, getattr(fastrnn, name))
    mine, plain, value = copied(3, 4), build(name), value_of(name)
    plain.load_state_dict(mine.state_dict())
    if packs and name in LAYERS:
        value = nn.utils.rnn.pack_padded_sequence(value, torch.tensor([3, 5]), enforce_sorted=False)
    expected = plain(value)
    torch.testing.assert_close(flatten(mine(value)), flatten(expected))
    hx = expected[1] if name in LAYERS else expected
    torch.testing.assert_close(flatten(mine(value, hx)), flatten(plain(value, hx)))
    wrong = torch.randn(1, 2, 5) if name in LAYERS else torch.randn(2, 5)
    with pytest.raises(RuntimeError, match="5"):
        mine(value, (wrong, wrong) if "LSTM" in name else wrong)


def test_compiled_within():
    """As the docstring says: torch.compile leaves out of its graphs what torch.nn.LSTM names."""
    torch._dynamo.reset()
    with fastrnn.patched(fullgraph=True):
        layer, value = nn.LSTM(3, 4), torch.randn(5, 2, 3)
        same(torch.compile(layer, backend="eager")(value), layer(value))
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(lambda value: layer(value), backend="eager", fullgraph=True)(value)
    torch._dynamo.reset()
    same(torch.compile(lambda value: layer(value), backend="eager", fullgraph=True)(value), layer(value))
