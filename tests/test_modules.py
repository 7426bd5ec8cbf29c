"""Modules as objects: constructors, parameters, initial values, state_dict, copies, and what subclasses may do."""

import copy
import inspect
import io
import pickle

import pytest
import torch
from cases import CELLS, DTYPES, LAYERS, Case, assert_same, call, case_tolerance, make_leaves, option_product
from torch import nn

import fastrnn

CLASSES = (*LAYERS, *CELLS)
by_class = pytest.mark.parametrize("name", CLASSES)
by_layer = pytest.mark.parametrize("layer", LAYERS)

# Every argument by position, as torch.nn takes them when called: RNN and GRU too have a place for proj_size.
POSITIONS = {
    "RNN": (4, 3, 2, "relu", False, True, 0.25, True, 0, "cpu", torch.float64),
    "LSTM": (4, 3, 2, False, True, 0.25, True, 2, "cpu", torch.float64),
    "GRU": (4, 3, 2, False, True, 0.25, True, 0, "cpu", torch.float64),
    "RNNCell": (4, 3, False, "relu", "cpu", torch.float64),
    "LSTMCell": (4, 3, False, "cpu", torch.float64),
    "GRUCell": (4, 3, False, "cpu", torch.float64),
}


def both(name, *args, seed=0, **kwargs):
    """torch.nn's module and ours, made from the same seed."""
    modules = []
    for space in (nn, fastrnn):
        torch.manual_seed(seed)
        modules.append(getattr(space, name)(*args, **kwargs))
    return modules


def assert_same_bits(theirs, ours):
    assert list(theirs.state_dict()) == list(ours.state_dict())
    for name, value in theirs.state_dict().items():
        other = ours.state_dict()[name]
        assert (value.dtype, value.shape, value.stride()) == (other.dtype, other.shape, other.stride()), name
        assert torch.equal(value, other), name


@by_class
def test_positions(name):
    positions = POSITIONS[name]
    for count in range(2, len(positions) + 1):
        theirs, ours = both(name, *positions[:count])
        assert repr(theirs) == repr(ours)
        assert_same_bits(theirs, ours)


def positions_of(name):
    """The names of what torch.nn's constructor is documented to take by position."""
    names = {
        "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional",
        "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size",
        "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional",
        "RNNCell": "input_size hidden_size bias nonlinearity",
    }
    return names.get(name, "input_size hidden_size bias").split()


@by_class
def test_constructor_accepts_every_keyword(name):
    """By name too, and each name is in the signature or its overloads, where an editor finds it."""
    keywords = dict(zip(positions_of(name), POSITIONS[name], strict=False))
    theirs, ours = both(name, **keywords, device="cpu", dtype=torch.float64)
    assert repr(theirs) == repr(ours)
    assert_same_bits(theirs, ours)


@by_layer
@pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
def test_initial_values_and_generator(layer, dtype):
    for options in option_product(layer):
        theirs, ours = both(layer, 4, 5, dtype=dtype, seed=7, **options)
        assert_same_bits(theirs, ours)
        assert repr(theirs) == repr(ours)
    nn_after, our_after = [], []
    for space, after in ((nn, nn_after), (fastrnn, our_after)):
        torch.manual_seed(3)
        getattr(space, layer)(4, 5)
        after.append(torch.rand(()))
    assert nn_after == our_after


@by_class
def test_state_dict_both_ways(name):
    theirs, ours = getattr(nn, name)(4, 3), getattr(fastrnn, name)(4, 3)
    ours.load_state_dict(theirs.state_dict())
    assert_same_bits(theirs, ours)
    again = getattr(nn, name)(4, 3)
    again.load_state_dict(ours.state_dict())
    assert_same_bits(again, theirs)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    third = getattr(fastrnn, name)(4, 3)
    third.load_state_dict(torch.load(file))
    assert_same_bits(theirs, third)


@by_layer
def test_all_weights_and_flatten_parameters(layer):
    options = {"num_layers": 2, "bidirectional": True} | ({"proj_size": 2} if layer == "LSTM" else {})
    for bias in (True, False):
        theirs, ours = both(layer, 4, 3, bias=bias, **options)
        assert len(theirs.all_weights) == len(ours.all_weights) == 4
        for row, other in zip(theirs.all_weights, ours.all_weights, strict=True):
            assert [w.shape for w in row] == [w.shape for w in other]
        parameters = dict(ours.named_parameters())
        assert {id(w) for row in ours.all_weights for w in row} == {id(w) for w in parameters.values()}
        assert ours.flatten_parameters() is None
        assert dict(ours.named_parameters()) == parameters


@by_class
def test_bases_and_attributes(name):
    theirs, ours = both(name, 4, 3)
    assert isinstance(ours, nn.RNNBase if name in LAYERS else nn.RNNCellBase)
    for attribute in ("input_size", "hidden_size", "bias", "training"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    if name in LAYERS:
        for attribute in ("mode", "num_layers", "batch_first", "dropout", "bidirectional", "proj_size"):
            assert getattr(ours, attribute) == getattr(theirs, attribute)
    if name in ("RNN", "RNNCell"):
        assert ours.nonlinearity == theirs.nonlinearity


@by_class
def test_forward_names_its_arguments_as_torch_does(name):
    module = getattr(fastrnn, name)(4, 3)
    names = list(inspect.signature(module.forward).parameters)
    assert names[:2] == ["input", "hx"]
    # What we have beyond torch.nn comes after, and need not be given.
    assert module(input=torch.randn(5, 4), hx=None) is not None


@pytest.mark.parametrize("name", LAYERS)
def test_constructor_says_what_it_takes(name):
    """inspect.signature, help() and editors see names, defaults and types, of subclasses and converted layers, too."""

    class Sub(getattr(fastrnn, name)):
        pass

    for kind in (getattr(fastrnn, name), getattr(fastrnn.adopted, name), Sub):
        parameters = inspect.signature(kind).parameters
        torchs, options = positions_of(name), inspect.signature(fastrnn.Options).parameters
        assert list(parameters)[: len(torchs)] == torchs
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in parameters.values())
        ours = set(parameters) - {*torchs, "device", "dtype"}
        assert {option: parameters[option].default for option in ours} == {
            option: options[option].default for option in ours
        }
        assert {"tbptt_steps", "layer_norm", "num_heads"} <= ours
        kind(**{n: p.default for n, p in parameters.items() if p.default is not p.empty}, input_size=4, hidden_size=6)


@by_class
def test_documented(name):
    """On the class itself: torchrl appends to `LSTM.__doc__` when imported, and None + str fails there."""
    doc = vars(getattr(fastrnn, name))["__doc__"]
    for word in ("Args:", "input_size", "hidden_size", "hx"):
        assert word in doc


def forward_bits(module):
    value = torch.linspace(-1, 1, 20, dtype=next(module.parameters()).dtype).reshape(5, 4)
    result = module(value)
    return result[0] if isinstance(result, tuple) else result


@by_class
@pytest.mark.parametrize("how", ("deepcopy", "pickle", "torch.save"))
@pytest.mark.parametrize("used", (False, True))
def test_copies(name, how, used):
    module = getattr(fastrnn, name)(4, 3)
    if used:
        forward_bits(module).sum().backward()
    if how == "deepcopy":
        twin = copy.deepcopy(module)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert type(twin) is type(module)
    assert repr(twin) == repr(module)
    assert_same_bits(module, twin)
    assert torch.equal(forward_bits(module), forward_bits(twin))
    # The twin's weights are its own, and its forward uses those.
    before = forward_bits(module)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert torch.equal(forward_bits(module), before)
    assert not torch.equal(forward_bits(twin), before)


@by_class
def test_copies_of_a_compiled_module(name):
    """As in torch.nn: what was compiled stays out of them."""
    module = getattr(fastrnn, name)(4, 3)
    module.compile(backend="eager")
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(forward_bits(module), forward_bits(twin))
        assert twin._compiled_call_impl is None
    assert module._compiled_call_impl is not None


@by_class
def test_subclass_may_override_reset_parameters(name):
    class Ones(getattr(fastrnn, name)):
        def reset_parameters(self):
            for weight in self.parameters():
                nn.init.ones_(weight)

    module = Ones(4, 3)
    assert all((weight == 1).all() for weight in module.parameters())
    theirs = getattr(nn, name)(4, 3)
    theirs.load_state_dict(module.state_dict())
    torch.testing.assert_close(forward_bits(module), forward_bits(theirs))


@by_class
@pytest.mark.parametrize("change", ("data", "setattr", "inplace data", "replaced in _parameters"))
def test_changed_weights_are_seen(name, change):
    theirs, ours = getattr(nn, name)(4, 3), getattr(fastrnn, name)(4, 3)
    forward_bits(ours)  # whatever might be kept from a first call
    for (key, weight), source in zip(list(ours.named_parameters()), theirs.parameters(), strict=True):
        if change == "data":
            weight.data = source.data.clone()
        elif change == "inplace data":
            weight.data.copy_(source.data)
        elif change == "setattr":
            setattr(ours, key, nn.Parameter(source.detach().clone()))
        else:
            ours._parameters[key] = nn.Parameter(source.detach().clone())
    torch.testing.assert_close(forward_bits(ours), forward_bits(theirs))


@by_class
def test_functional_call(name):
    theirs, ours = getattr(nn, name)(4, 3), getattr(fastrnn, name)(4, 3)
    value = torch.randn(5, 4)
    result = torch.func.functional_call(ours, dict(theirs.named_parameters()), (value,))
    expected = theirs(value)
    if isinstance(result, tuple):
        result, expected = result[0], expected[0]
    torch.testing.assert_close(result, expected)


@by_class
def test_dtype_moves(name):
    module = getattr(fastrnn, name)(4, 3)
    assert forward_bits(module.double()).dtype == torch.float64
    assert forward_bits(module.float()).dtype == torch.float32


@by_layer
@pytest.mark.parametrize("has_hx", (False, True))
def test_meta(layer, has_hx):
    """Constructed without storage; forward gives torch.nn's shapes; to_empty and load_state_dict bring it to life."""
    case = Case(layer, {"num_layers": 2, "bidirectional": True, "batch_first": True, "device": "meta"}, has_hx=has_hx)
    theirs, ours = case.build(torch.float32), case.build(torch.float32, fastrnn)
    assert all(weight.is_meta for weight in ours.parameters())
    leaves = {name: leaf.to("meta") for name, leaf in make_leaves(case, torch.float32).items()}
    expected, actual = call(theirs, leaves), call(ours, leaves)
    for one, other in zip(_tensors(expected), _tensors(actual), strict=True):
        assert other.is_meta
        assert (one.shape, one.dtype) == (other.shape, other.dtype)

    source = Case(layer, case.options | {"device": "cpu"}, has_hx=has_hx)
    alive = source.build(torch.float32)
    ours.to_empty(device="cpu").load_state_dict(alive.state_dict())
    leaves = make_leaves(source, torch.float32)
    relative = case_tolerance(source, torch.float32)
    for one, other in zip(_tensors(call(alive, leaves)), _tensors(call(ours, leaves)), strict=True):
        assert_same({"output": one}, {"output": other}, relative)


def _tensors(value):
    return [value] if isinstance(value, torch.Tensor) else [t for item in value for t in _tensors(item)]


@pytest.mark.parametrize("name", CELLS)  # torch.nn's layers do not support it: their constructors hide `device`
def test_skip_init(name):
    module = torch.nn.utils.skip_init(getattr(fastrnn, name), 4, 3)
    assert not any(weight.is_meta for weight in module.parameters())


@by_layer
def test_trains(layer):
    """A few steps of an optimizer follow torch.nn's own."""
    case = Case(layer, {"num_layers": 2}, seq=6, batch=4, hidden_size=8)
    theirs = case.build(torch.float64)
    ours = case.build(torch.float64, fastrnn)
    ours.load_state_dict(theirs.state_dict())
    value, target = (torch.randn(6, 4, 3, dtype=torch.float64), torch.randn(6, 4, 8, dtype=torch.float64))
    losses = []
    for module in (theirs, ours):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        history = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (module(value)[0] - target).square().mean()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[1] == pytest.approx(losses[0], rel=1e-9)
    assert losses[1][-1] < losses[1][0]
