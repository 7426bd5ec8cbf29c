"""Parameters as people treat them: frozen, tied, reparametrized, pruned, moved, loaded, averaged, optimized.

Against torch.nn in f64 with the same weights, through functional_call where torch.nn would read stale ones.
"""

import copy

import pytest
import torch
from cases import CELLS, LAYERS, flatten
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel

import fastrnn

pytestmark = pytest.mark.thorough

NAMES = (*LAYERS, *CELLS)
by_name = pytest.mark.parametrize("name", NAMES)
by_layer = pytest.mark.parametrize("layer", LAYERS)

# As wide inside as outside, so that any two weights of a stack may be tied.
SIZE = 4


def make(space, name, dtype=torch.float64, **options):
    options = {"num_layers": 2, "bidirectional": False, **options} if name in LAYERS else options
    return getattr(space, name)(SIZE, SIZE, dtype=dtype, **options)


def twins(name, **options):
    """torch.nn's module and ours with the same weights."""
    theirs, ours = make(nn, name, **options), make(fastrnn, name, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def some_input(name, dtype=torch.float64):
    return torch.randn(5, 3, SIZE, dtype=dtype) if name in LAYERS else torch.randn(3, SIZE, dtype=dtype)


def loss_of(outputs):
    """A number in which every element of every output counts differently."""
    generator = torch.Generator().manual_seed(0)
    parts = [value for value in flatten(outputs).values() if value.is_floating_point()]
    return sum((value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum() for value in parts)


def recurrent_weight(name):
    return "weight_hh_l0" if name in LAYERS else "weight_hh"


def assert_grads_match(theirs, ours):
    expected, actual = dict(theirs.named_parameters()), dict(ours.named_parameters())
    assert list(expected) == list(actual)
    for key, parameter in expected.items():
        if parameter.grad is None:
            assert actual[key].grad is None, f"{key} has a gradient and should not"
        else:
            torch.testing.assert_close(actual[key].grad, parameter.grad, msg=key)


@by_name
@pytest.mark.parametrize("frozen", ("weight_ih", "weight_hh", "bias", "weight", "_l1", ""))
def test_frozen_parameters_get_no_gradient(name, frozen):
    pair = twins(name)
    value = some_input(name).requires_grad_()
    input_grads = []
    for module in pair:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in key)
        value.grad = None
        loss_of(module(value)).backward()
        input_grads.append(value.grad)
    assert_grads_match(*pair)
    torch.testing.assert_close(*input_grads)


@by_name
def test_all_frozen(name):
    module = make(fastrnn, name).requires_grad_(False)
    value = some_input(name)
    assert not any(output.requires_grad for output in flatten(module(value)).values())
    module.requires_grad_(True)  # thawed: the next call sees it
    assert all(output.requires_grad for output in flatten(module(value)).values())


@by_layer
@pytest.mark.parametrize("tied", ("weight_ih", "weight_hh", "bias_hh"))
def test_tied_between_the_layers_of_a_stack(layer, tied):
    pair = twins(layer)
    value = some_input(layer)
    for module in pair:
        setattr(module, f"{tied}_l1", getattr(module, f"{tied}_l0"))
        assert len(list(module.parameters())) == 7
        loss_of(module(value)).backward()
    assert_grads_match(*pair)


@by_layer
def test_tied_within_a_layer(layer):
    """One tensor as w_ih and w_hh, and as both biases: each use adds its gradient."""
    pair = twins(layer, num_layers=1)
    value = some_input(layer)
    for module in pair:
        module.weight_ih_l0, module.bias_ih_l0 = module.weight_hh_l0, module.bias_hh_l0
        loss_of(module(value)).backward()
    assert_grads_match(*pair)


@by_name
def test_tied_between_modules_and_a_module_used_twice(name):
    value = some_input(name)
    models = [nn.ModuleList([first, copy.deepcopy(first)]) for first in twins(name)]
    for first, second in models:
        setattr(second, recurrent_weight(name), getattr(first, recurrent_weight(name)))
        result = value
        for module in (first, second, first):
            result, *_ = flatten(module(result)).values()
        loss_of(result).backward()
    assert_grads_match(*models)


# Each parametrization, and whether it returns the same weight each time it is asked for.
PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
}


@by_name
@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
def test_parametrizations(name, kind):
    """The weight is looked up anew after each optimizer step, and its gradient reaches what it is made from."""
    theirs, ours = twins(name)
    value = some_input(name)
    ours(value)  # what a call before may have kept must not serve the calls after
    for key in [key for key, _ in ours.named_parameters() if key.startswith("weight")]:
        PARAMETRIZATIONS[kind](ours, key)
    # Outside training spectral_norm leaves its estimate alone; in it, every look at the weight moves it.
    ours.eval()
    names = [key for key, _ in theirs.named_parameters()]
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    for _ in range(3):
        effective = {key: getattr(ours, key) for key in names}
        expected = torch.autograd.grad(loss_of(functional_call(theirs, effective, value)), list(ours.parameters()))
        optimizer.zero_grad()
        loss_of(ours(value)).backward()
        for grad, (key, parameter) in zip(expected, ours.named_parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, grad, msg=key)
        optimizer.step()


@by_name
def test_parametrized_in_training_once_a_call(name):
    """spectral_norm iterates at each look at the weight: a call must look once, as a call of any other module does."""
    module = make(fastrnn, name)
    looks = []

    class Counted(nn.Module):
        def forward(self, weight):
            looks.append(1)
            return weight

    parametrize.register_parametrization(module, recurrent_weight(name), Counted(), unsafe=True)
    looks.clear()
    module(some_input(name))
    assert len(looks) == 1


@by_name
def test_parametrization_removed(name):
    module, key = make(fastrnn, name), recurrent_weight(name)
    value = some_input(name)
    parametrizations.weight_norm(module, key)
    before = flatten(module(value))
    parametrize.remove_parametrizations(module, key)
    assert key in dict(module.named_parameters())
    torch.testing.assert_close(flatten(module(value)), before)


@by_name
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated.*")
def test_old_weight_norm(name):
    pair = twins(name)
    value = some_input(name)
    optimizers = []
    for module in pair:
        nn.utils.weight_norm(module, recurrent_weight(name))
        optimizers.append(torch.optim.SGD(module.parameters(), lr=0.1))
    for _ in range(3):
        for module, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(module(value)).backward()
        assert_grads_match(*pair)
        for optimizer in optimizers:
            optimizer.step()
    nn.utils.remove_weight_norm(pair[1], recurrent_weight(name))
    torch.testing.assert_close(flatten(pair[1](value)), flatten(pair[0](value)))


@by_name
def test_pruning(name):
    theirs, ours = twins(name)
    value, key = some_input(name), recurrent_weight(name)
    prune.l1_unstructured(ours, key, amount=0.4)
    weights = dict(theirs.named_parameters()) | {key: getattr(ours, key)}
    torch.testing.assert_close(flatten(ours(value)), flatten(functional_call(theirs, weights, value)))

    optimizer = torch.optim.Adam(ours.parameters(), lr=0.1)
    loss_of(ours(value)).backward()
    gone = getattr(ours, f"{key}_mask") == 0
    assert (getattr(ours, f"{key}_orig").grad[gone] == 0).all()
    optimizer.step()
    # The pruned weight is computed before each call, by a hook: the call, not the module, must see the step.
    after = flatten(ours(value))
    prune.remove(ours, key)
    assert (getattr(ours, key)[gone] == 0).all()
    torch.testing.assert_close(flatten(ours(value)), after)


@by_name
@pytest.mark.parametrize("assign", (False, True))
def test_meta_device_then_load(name, assign):
    source = make(fastrnn, name)
    with torch.device("meta"):
        module = make(fastrnn, name)
    assert all(parameter.is_meta for parameter in module.parameters())
    if not assign:
        module.to_empty(device="cpu")
    module.load_state_dict(source.state_dict(), assign=assign)
    value = some_input(name)
    assert torch.equal(loss_of(module(value)), loss_of(source(value)))
    if assign:
        shared = zip(module.parameters(), source.parameters(), strict=True)
        assert all(mine.data_ptr() == other.data_ptr() for mine, other in shared)


@by_name
def test_share_memory(name):
    module = make(fastrnn, name)
    value = some_input(name)
    before = loss_of(module(value))
    assert module.share_memory() is module
    assert all(parameter.is_shared() for parameter in module.parameters())
    assert torch.equal(loss_of(module(value)), before)


@by_name
@pytest.mark.parametrize("swap", (False, True), ids=("data", "swapped"))
def test_dtype_round_trips(name, swap):
    """There and back again: what half types keep of the weights decides, and no stale copy of another dtype."""
    module = make(fastrnn, name, dtype=torch.float32)
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        for narrow in (torch.float16, torch.bfloat16, torch.float64):
            twin = copy.deepcopy(module)
            with torch.no_grad():
                for parameter in twin.parameters():
                    parameter.copy_(parameter.to(narrow).float())
            changed = copy.deepcopy(module).to(narrow)
            value = some_input(name, narrow)
            assert {output.dtype for output in flatten(changed(value)).values()} == {narrow}
            value = some_input(name, torch.float32)
            assert torch.equal(loss_of(changed.float()(value)), loss_of(twin(value)))
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    module.to(memory_format=torch.channels_last)  # for 4-D weights: no concern of ours
    module(some_input(name, torch.float32))


@by_name
def test_averaged_copies(name):
    """An EMA of a model in training is the model with averaged weights, and training does not leak into it."""
    theirs, ours = twins(name)
    value = some_input(name)
    averages = []
    for module in (theirs, ours):
        average = AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(module(value)).backward()
            optimizer.step()
            average.update_parameters(module)
        averages.append(average)
    torch.testing.assert_close(flatten(averages[1](value)), flatten(averages[0](value)))
    assert not torch.equal(loss_of(averages[1](value)), loss_of(ours(value)))


OPTIMIZERS = {
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "Adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, foreach=False),
}


@by_name
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_and_clipping(name, optimizer):
    pair = twins(name)
    value = some_input(name)
    norms = []
    for module in pair:
        stepper = OPTIMIZERS[optimizer](module.parameters())
        for _ in range(4):
            stepper.zero_grad()
            (loss_of(module(value)) ** 2).backward()
            norms.append(nn.utils.clip_grad_norm_(module.parameters(), 0.5))
            stepper.step()
    torch.testing.assert_close(norms[:4], norms[4:])
    torch.testing.assert_close(pair[1].state_dict(), pair[0].state_dict())


@by_name
def test_flattened_to_a_vector_and_back(name):
    theirs, ours = twins(name)
    vector = torch.randn_like(nn.utils.parameters_to_vector(ours.parameters()))
    value = some_input(name)
    for module in (theirs, ours):
        nn.utils.vector_to_parameters(vector, module.parameters())
        # Parameters are now views into the vector.
    torch.testing.assert_close(flatten(ours(value)), flatten(theirs(value)))


@by_name
def test_replica_for_data_parallel(name):
    """What nn.DataParallel makes for each device: weights that are no leaves, whose gradients reach the original."""
    module = make(fastrnn, name)
    value = some_input(name)
    loss_of(module(value)).backward()
    expected = [parameter.grad for parameter in module.parameters()]
    replica = module._replicate_for_data_parallel()
    for key, parameter in module.named_parameters():
        setattr(replica, key, parameter.clone())
    module.zero_grad()
    loss_of(replica(value)).backward()
    assert not list(replica.parameters())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(module.parameters(), expected, strict=True))


@by_name
def test_functional_call_differentiates_what_it_is_given(name):
    theirs, ours = twins(name)
    value = some_input(name)
    grads = []
    for module in (theirs, ours):
        scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
        weights = {key: scale * parameter.detach() for key, parameter in module.named_parameters()}
        grads.append(torch.autograd.grad(loss_of(functional_call(module, weights, value)), scale))
    torch.testing.assert_close(*grads)


class Recipes(nn.Module):
    """Parameters may be set as functions that compute them."""

    def __setattr__(self, key, value):
        if callable(value) and key in self._parameters:
            del self._parameters[key]
            self.__dict__.setdefault("recipes", {})[key] = value
        else:
            super().__setattr__(key, value)


class Computing(Recipes):
    """What Pyro's modules do: looking up a parameter runs code of the class."""

    def __getattr__(self, key):
        recipes = self.__dict__.get("recipes", {})
        value = recipes[key]() if key in recipes else super().__getattr__(key)
        return 2 * value if key.startswith("bias_hh") else value


class Intercepting(Recipes):
    """The same by the other way in which Python lets a class answer for attributes."""

    def __getattribute__(self, key):
        recipes = super().__getattribute__("__dict__").get("recipes", {})
        if key in recipes:
            return recipes[key]()
        if key.startswith("bias_hh") and key in self._parameters:
            return 2 * self._parameters[key]
        return super().__getattribute__(key)


@by_name
@pytest.mark.parametrize("order", ("before", "behind", "intercepting"))
def test_classes_that_answer_for_attributes(name, order):
    kind = getattr(fastrnn, name)
    bases = {"before": (Computing, kind), "behind": (kind, Computing), "intercepting": (Intercepting, kind)}
    theirs, ours = make(nn, name), type("Mixed", bases[order], {"__module__": __name__})
    ours = ours(SIZE, SIZE, dtype=torch.float64, **({"num_layers": 2} if name in LAYERS else {}))
    ours.load_state_dict(theirs.state_dict())
    value, key = some_input(name), recurrent_weight(name)
    weights = {k: 2 * p if k.startswith("bias_hh") else p for k, p in theirs.named_parameters()}
    torch.testing.assert_close(flatten(ours(value)), flatten(functional_call(theirs, weights, value)))

    recurrent = getattr(theirs, key).detach()
    scale = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    setattr(ours, key, lambda: scale * recurrent)
    assert key not in dict(ours.named_parameters())
    expected = functional_call(theirs, weights | {key: scale * recurrent}, value)
    actual = ours(value)
    torch.testing.assert_close(flatten(actual), flatten(expected))
    grads = [torch.autograd.grad(loss_of(result), scale) for result in (actual, expected)]
    torch.testing.assert_close(*grads)


@by_layer
@pytest.mark.parametrize("deletes", (False, True), ids=("kept", "deleted"))
def test_assigned_flat_weights(layer, deletes):
    """Code that drops weights assigns torch.nn's list of them before each call."""
    pair = twins(layer)
    value = some_input(layer)
    raw = [nn.Parameter(parameter.detach().clone()) for parameter in pair[0].parameters()]
    if deletes:
        for module in pair:
            del module.weight_hh_l0
    keys = list(pair[0].state_dict())
    for _ in range(2):
        grads = []
        for module in pair:
            torch.manual_seed(0)
            module._flat_weights = [nn.functional.dropout(weight, 0.5) for weight in raw]
            grads.append(torch.autograd.grad(loss_of(module(value)), raw))
            assert list(module.state_dict()) == keys
        torch.testing.assert_close(*grads)


@by_layer
@pytest.mark.parametrize("change", ("attribute", "to", "functional_call", "attributes assigned"))
def test_assigned_flat_weights_end(layer, change):
    """Both forget the list once a weight is another one."""
    pair = twins(layer)
    weight, value = torch.randn_like(pair[0].weight_hh_l1), some_input(layer)
    results = []
    for module in pair:
        before = module(value)
        module._flat_weights = [2 * parameter for parameter in module.parameters()]
        assert not torch.equal(loss_of(module(value)), loss_of(before))
        if change == "attribute":
            module.weight_hh_l1 = nn.Parameter(weight)
        elif change == "to":
            module.to(torch.float32).to(torch.float64)
        elif change == "functional_call":
            functional_call(module, {"weight_hh_l1": weight}, value)
        else:
            module._flat_weights = [getattr(module, key) for key in module._flat_weights_names]
        results.append(flatten(module(value)))
    torch.testing.assert_close(*results)
