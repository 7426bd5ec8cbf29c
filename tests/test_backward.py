"""Backward as people use it: hooks, retained graphs, accumulation, anomaly mode, tensors changed in between."""

from contextlib import nullcontext
from typing import ClassVar

import pytest
import torch
from cases import CELLS, LAYERS, flatten
from test_parameters import NAMES, SIZE, assert_grads_match, by_name, loss_of, make, recurrent_weight, some_input, twins
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn._ops import schema

by_layer = pytest.mark.parametrize("layer", LAYERS)


@by_name
def test_forward_hooks_see_and_replace(name):
    """Hooks on arguments and results, with keywords, in the order torch calls them."""
    theirs, ours = twins(name)
    value = some_input(name)
    records = []
    for module in (theirs, ours):
        seen = []
        pre = module.register_forward_pre_hook(
            lambda m, args, kwargs, seen=seen: seen.append(("pre", kwargs)) or ((args[0] * 2,), kwargs),
            with_kwargs=True,
        )
        post = module.register_forward_hook(
            lambda m, args, kwargs, out, seen=seen: seen.append((len(args), kwargs, type(out))) or flatten(out),
            with_kwargs=True,
        )
        records.append((seen, module(value, hx=None)))
        pre.remove()
        post.remove()
    assert records[0][0] == records[1][0]
    torch.testing.assert_close(records[1][1], records[0][1])
    torch.testing.assert_close(flatten(ours(2 * value)), records[1][1])


@by_layer
def test_pre_hook_may_add_lengths(layer):
    module = make(fastrnn, layer)
    value, lengths = some_input(layer), torch.tensor([5, 0, 2])
    expected = flatten(module(value, lengths=lengths))
    module.register_forward_pre_hook(lambda m, args, kwargs: (args, kwargs | {"lengths": lengths}), with_kwargs=True)
    torch.testing.assert_close(flatten(module(value)), expected)


@by_name
def test_full_backward_hooks(name):
    theirs, ours = twins(name)
    value = some_input(name).requires_grad_()
    records = []
    for module in (theirs, ours):
        seen = []
        module.register_full_backward_pre_hook(lambda m, grads, seen=seen: seen.append(grads))
        module.register_full_backward_hook(lambda m, inputs, outputs, seen=seen: seen.extend((inputs, outputs)))
        loss_of(module(value)).backward()
        records.append(seen)
    assert len(records[1]) == 3
    torch.testing.assert_close(records[1], records[0])


@by_name
def test_hooks_on_parameters(name):
    """register_hook may change a gradient; the hook after accumulation may step an optimizer and free it."""
    theirs, ours = twins(name)
    value = some_input(name)
    for module in (theirs, ours):
        for parameter in module.parameters():
            parameter.register_hook(lambda grad: 2 * grad.clamp(-1, 1))
        loss_of(module(value)).backward()
    assert_grads_match(theirs, ours)

    for module in (theirs, ours):
        module.zero_grad()

        def step(parameter):
            with torch.no_grad():
                parameter.sub_(0.1 * parameter.grad)
            parameter.grad = None

        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        loss_of(module(value)).backward()
        assert all(parameter.grad is None for parameter in module.parameters())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@by_name
def test_state_dict_hooks(name):
    module = make(fastrnn, name)
    key = recurrent_weight(name)

    def rename(m, state, prefix, metadata):
        state[prefix + "renamed"] = state.pop(prefix + key)

    def rename_back(m, state, prefix, *rest):
        state[prefix + key] = state.pop(prefix + "renamed")

    module.register_state_dict_post_hook(rename)
    module.register_load_state_dict_pre_hook(rename_back)
    loaded = []
    module.register_load_state_dict_post_hook(lambda m, problems: loaded.append(problems))
    model = nn.Sequential(module)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert "0.renamed" in state
    assert f"0.{key}" not in state
    value = some_input(name)
    before = loss_of(model(value))
    nn.init.zeros_(getattr(module, key))
    model.load_state_dict(state)
    assert loaded
    assert torch.equal(loss_of(model(value)), before)


@by_name
def test_backward_twice(name):
    """With retain_graph the same gradients again, to the bit; without, torch's error."""
    module = make(fastrnn, name)
    loss = loss_of(module(some_input(name)))
    loss.backward(retain_graph=True)
    first = [parameter.grad.clone() for parameter in module.parameters()]
    loss.backward()
    assert all(torch.equal(p.grad, 2 * grad) for p, grad in zip(module.parameters(), first, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@by_name
def test_accumulation_over_micro_batches(name):
    pair = twins(name)
    value = some_input(name)
    batch = 1 if name in LAYERS else 0
    for module in pair:
        for part in value.split(1, batch):
            loss_of(module(part)).backward()
    assert_grads_match(*pair)


@by_name
def test_gradient_of_one_output_alone(name):
    """Gradients of outputs that reach no loss are missing, not zeros: backward must cope with each missing."""
    theirs, ours = twins(name)
    value = some_input(name)
    for key in flatten(theirs(value)):
        for module in (theirs, ours):
            module.zero_grad()
            flatten(module(value))[key].pow(2).sum().backward()
        assert_grads_match(theirs, ours)


@by_name
def test_backward_in_eval_mode(name):
    pair = twins(name)
    value = some_input(name)
    for module in pair:
        loss_of(module.eval()(value)).backward()
    assert_grads_match(*pair)


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_a_cell_is_one_node(name):
    """Views of the input, the states and the results would cost a loop over a cell more than its kernels."""
    cell = getattr(fastrnn, name)(3, 4)
    first = cell(torch.randn(2, 3))
    second = cell(torch.randn(2, 3), first)
    h = [states[0] if isinstance(states, tuple) else states for states in (first, second)]
    assert h[0].grad_fn in [node for node, _ in h[1].grad_fn.next_functions]


@by_name
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_anomaly_mode(name):
    """It says which forward call made the NaN, and changes nothing where there is none."""
    pair = twins(name)
    value = some_input(name)
    for module, check in zip(pair, (False, True), strict=True):
        with torch.autograd.detect_anomaly(check_nan=check):
            loss_of(module(value)).backward()
    assert_grads_match(*pair)
    bad = value.clone().fill_(1e300).requires_grad_()
    with torch.no_grad():
        recurrent = getattr(pair[1], recurrent_weight(name))
        recurrent.fill_(float("nan"))
    with (
        torch.autograd.detect_anomaly(),
        pytest.warns(UserWarning, match=r"Error detected in (Layer|Step)Function") as warned,
        pytest.raises(RuntimeError, match=r"(Layer|Step)Function.*nan"),
    ):
        loss_of(pair[1](bad)).backward()
    assert "loss_of(pair[1](bad))" in str(warned[0].message)


@by_name
@pytest.mark.parametrize("changed", ("input", "hx", "weight_hh", "weight_ih"))
def test_changed_before_backward(name, changed):
    """A tensor that backward needs and that was changed in place: torch's own error, not a wrong gradient."""
    module = make(fastrnn, name)
    value = some_input(name).requires_grad_()
    shape = (2, 3, SIZE) if name in LAYERS else (3, SIZE)
    states = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    hx = tuple(states) if name.startswith("LSTM") else states[0]
    loss = loss_of(module(value, hx))
    suspects = {"input": value, "hx": states[0]} | {key[:9]: p for key, p in module.named_parameters()}
    with torch.no_grad():
        suspects[changed].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@by_name
def test_changed_without_effect(name):
    """Changes that leave what backward reads alone, and calls that record nothing, raise nothing."""
    module = make(fastrnn, name)
    value = some_input(name)
    loss = loss_of(module(value))
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()  # the graph keeps the old memory
        parameter.data.zero_()
    loss.backward()
    expected = loss_of(module(value))
    with torch.no_grad():
        module(value)
        next(module.parameters()).mul_(1)
    assert torch.equal(loss_of(module(value)), expected)


class TestOutputChangedInPlace:
    """An output that backward reads: the right gradient nevertheless, as of nn.GRU before an nn.ReLU(inplace=True)."""

    CHANGES: ClassVar = {
        "relu": lambda output: output.relu_(),
        "part": lambda output: [output[1:].mul_(2), output][1],
        "twice": lambda output: output.sin_().mul_(3),
        "view of a view": lambda output: output.transpose(0, 1).unsqueeze(0).exp_(),
    }

    @by_name
    @pytest.mark.parametrize("change", CHANGES)
    def test_gradients(self, name, change):
        module, change = make(fastrnn, name), self.CHANGES[change]
        value = some_input(name).requires_grad_()
        wanted = [value, *module.parameters()]

        def output():
            return next(iter(flatten(module(value)).values()))

        expected = torch.autograd.grad(change(output().clone()).square().sum(), wanted)
        changed = change(output())
        if name in LAYERS:
            with pytest.warns(UserWarning, match="changed in place before backward, which needs it and runs forward"):
                actual = torch.autograd.grad(changed.square().sum(), wanted, create_graph=True)
        else:  # no backward reads what a cell returns
            actual = torch.autograd.grad(changed.square().sum(), wanted, create_graph=True)
        torch.testing.assert_close(actual, expected)
        assert all(gradient.requires_grad for gradient in actual)

    @pytest.mark.parametrize("options", ({"batch_first": True}, {"dropout": 0.5}, {"zoneout": 0.5}), ids=str)
    def test_options(self, options):
        """What was drawn stays as it was drawn."""
        module, value = fastrnn.LSTM(SIZE, SIZE, 2, **options), torch.randn(4, 3, SIZE)
        gradients = []
        for change in (torch.sigmoid, torch.sigmoid_):
            torch.manual_seed(5)
            output, _ = module(value)
            loss = change(output).sum()
            with nullcontext() if change is torch.sigmoid else pytest.warns(UserWarning, match="changed in place"):
                gradients.append(torch.autograd.grad(loss, list(module.parameters())))
        torch.testing.assert_close(*gradients)

    def test_unchanged(self, monkeypatch):
        """Changes of other results, and of the output in backward's wake, run nothing again; and nothing that watches
        for changes holds memory."""
        module, value, calls, run = fastrnn.GRU(SIZE, SIZE), torch.randn(4, 3, SIZE), [], schema.plain_forward
        monkeypatch.setattr(schema, "plain_forward", lambda *given: [calls.append(1), run(*given)][1])
        output, hy = module(value)
        (output.sum() + hy.relu_().sum()).backward()
        assert output.grad_fn.watched.untyped_storage().nbytes() == 0
        with torch.no_grad():
            output.zero_()
        assert len(calls) == 1


@by_name
def test_saved_tensor_hooks_and_checkpoint(name):
    """What is kept for backward passes through torch's hooks: offloading and recomputation work on it."""
    module = make(fastrnn, name)
    value = some_input(name).requires_grad_()

    def grads(forward):
        return torch.autograd.grad(loss_of(forward(value)), [value, *module.parameters()])

    expected = grads(module)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t.clone(), lambda t: t):
        assert all(map(torch.equal, grads(module), expected))
    assert packed
    assert all(map(torch.equal, grads(lambda value: checkpoint(module, value, use_reentrant=False)), expected))


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode(name):
    module = make(fastrnn, name)
    value = some_input(name)
    with torch.inference_mode():
        outputs = flatten(module(value))
    assert all(output.is_inference() for output in outputs.values())
    torch.testing.assert_close(outputs, {key: output.detach() for key, output in flatten(module(value)).items()})
    first, *_ = outputs.values()
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        module(first)
