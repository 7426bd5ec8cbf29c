"""torch.export, AOTInductor, torch.jit.trace and torch.fx: a layer that leaves Python behind."""

import subprocess
import sys
import warnings

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, assert_same, flatten, randn
from torch import nn
from torch.export import Dim, export

import fastrnn

pytestmark = pytest.mark.thorough

by_strict = pytest.mark.parametrize("strict", (True, False), ids=("strict", "nonstrict"))
by_layer = pytest.mark.parametrize("layer", LAYERS)

DYNAMIC = {0: Dim("steps", min=2), 1: Dim("batch", min=2)}
# Other steps and batches than the example's 4 and 6.
SHAPES = ((7, 5), (2, 2), (20, 9))


class Model(nn.Module):
    """A layer with a layer on it, as it would be deployed."""

    def __init__(self, kernel, **options):
        super().__init__()
        layer, more = KERNELS[kernel]
        self.rnn = getattr(fastrnn, layer)(3, 5, 2, bidirectional=True, **more | options)
        self.head = nn.LazyLinear(2)
        self(torch.zeros(1, 1, 3))

    def forward(self, input, lengths=None):
        return self.head(self.rnn(input, lengths=lengths)[0])


def saved_and_loaded(program, folder):
    path = folder / "program.pt2"
    torch.export.save(program, path)
    return torch.export.load(path)


@pytest.mark.parametrize("kernel", KERNELS)
@by_strict
def test_dynamic_steps_and_batch(kernel, strict, tmp_path):
    model = Model(kernel).eval()
    program = export(model, (randn(4, 6, 3),), dynamic_shapes=(DYNAMIC,), strict=strict)
    for run in (program.module(), saved_and_loaded(program, tmp_path).module()):
        for steps, batch in SHAPES:
            value = randn(steps, batch, 3)
            torch.testing.assert_close(run(value), model(value))


@by_layer
@by_strict
def test_gradients_of_the_exported(layer, strict, tmp_path):
    """The program trains: each of its weights, and its input, gets the model's gradient, after a reload too."""
    model = Model(layer.lower() if layer != "RNN" else "rnn_tanh")
    program = export(model, (randn(4, 6, 3),), dynamic_shapes=(DYNAMIC,), strict=strict)
    value = randn(7, 5, 3)
    expected = gradients(model, value)
    for run in (program.module(), saved_and_loaded(program, tmp_path).module()):
        actual = gradients(run, value)
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(actual[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


def gradients(module, value):
    value = value.clone().requires_grad_()
    module.zero_grad()
    module(value).sin().sum().backward()
    return {"input": value.grad} | {name: weight.grad for name, weight in module.named_parameters()}


@by_strict
def test_exported_program_learns(strict):
    model = Model("gru")
    program = export(model, (randn(4, 6, 3),), strict=strict).module()
    optimizer = torch.optim.Adam(program.parameters(), lr=0.02)
    value, target = randn(4, 6, 3), randn(4, 6, 2)
    losses = []
    for _ in range(30):
        loss = (program(value) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@by_strict
def test_dropout_follows_the_mode_it_was_exported_in(strict):
    model, value = Model("lstm", dropout=0.5), randn(4, 6, 3)
    training = export(model, (value,), strict=strict).module()
    assert not torch.allclose(training(value), training(value))
    model.eval()
    inference = export(model, (value,), strict=strict).module()
    torch.testing.assert_close(inference(value), model(value))


@by_layer
@by_strict
def test_states_and_lengths(layer, strict, tmp_path):
    """Every argument as an input of the program; the same tensor as hx and cx."""
    module = getattr(fastrnn, layer)(3, 5)

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = module

        def forward(self, input, hx, lengths):
            return self.rnn(input, (hx, hx) if layer == "LSTM" else hx, lengths=lengths)

    batch = DYNAMIC[1]
    shapes = (DYNAMIC, {1: batch}, {0: batch})
    example = (randn(4, 6, 3), randn(1, 6, 5), torch.tensor([4, 0, 1, 3, 2, 4]))
    program = export(Call(), example, dynamic_shapes=shapes, strict=strict)
    run = saved_and_loaded(program, tmp_path).module()
    for steps, batch in SHAPES:
        arguments = (randn(steps, batch, 3), randn(1, batch, 5), torch.randint(0, steps + 1, (batch,)))
        torch.testing.assert_close(run(*arguments), Call()(*arguments))


@pytest.mark.parametrize("cell", CELLS)
@by_strict
def test_cells(cell, strict, tmp_path):
    module = getattr(fastrnn, cell)(3, 5)
    program = export(module, (randn(6, 3),), dynamic_shapes=({0: Dim("batch", min=2)},), strict=strict)
    value = randn(9, 3)
    torch.testing.assert_close(saved_and_loaded(program, tmp_path).module()(value), module(value))


@pytest.mark.parametrize(("dropout", "ops"), ((0.0, 1), (0.5, 2)))
def test_program_holds_one_op_for_layers_with_nothing_between(dropout, ops):
    """Not the formula: what is exported runs on the kernels."""
    program = export(Model("lstm", dropout=dropout), (randn(4, 6, 3),))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("fastrnn.forward" in name for name in names) == ops
    assert not any("sigmoid" in name for name in names)


def test_aot_inductor(tmp_path):
    """Compiled ahead of time, and called at other sizes than the example's."""
    model = Model("lstm").eval()
    with torch.no_grad():
        program = export(model, (randn(4, 6, 3),), dynamic_shapes=(DYNAMIC,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        run = torch._inductor.aoti_load_package(path)
        for steps, batch in SHAPES:
            value = randn(steps, batch, 3)
            torch.testing.assert_close(run(value), model(value))
        given = {"value": value, "expected": model(value)}
    torch.save(given, tmp_path / "values.pt")
    torch.export.save(program, tmp_path / "program.pt2")
    assert_runs_elsewhere(tmp_path)


# In a process of its own, which has not imported fastrnn. What torch says then is its own, and may change.
ELSEWHERE = """
import sys
import torch

given = torch.load("values.pt")
loads = (torch._inductor.aoti_load_package, "model.pt2"), (lambda path: torch.export.load(path).module(), "program.pt2")
for load, path in loads:
    try:
        load(path)(given["value"])
    except RuntimeError as error:
        print("refused", path)
torch.ops.load_library(sys.argv[1])
for load, path in loads:
    with torch.no_grad():
        torch.testing.assert_close(load(path)(given["value"]), given["expected"])
assert "fastrnn" not in sys.modules
print("equal")
"""


def assert_runs_elsewhere(folder):
    """The extension is all that a program needs."""
    command = [sys.executable, "-c", ELSEWHERE, fastrnn._native._C.__file__]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:-1] == ["refused model.pt2", "refused program.pt2", "equal"], done.stderr


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("training", (True, False))
def test_jit_trace(kernel, training, tmp_path):
    """Traced once, saved, loaded, and called at other sizes; gradients flow."""
    model = Model(kernel).train(training)
    with warnings.catch_warnings():
        # torch.jit is deprecated as a whole, and warns of every Python number that a trace makes constant.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, randn(4, 6, 3))
        traced.save(tmp_path / "traced.pt")
        loaded = torch.jit.load(tmp_path / "traced.pt")
    for run in (traced, loaded):
        value = randn(4, 6, 3)
        torch.testing.assert_close(run(value), model(value))
        torch.testing.assert_close(gradients(run, value), gradients(model, value))
        for steps, batch in SHAPES:
            value = randn(steps, batch, 3)
            torch.testing.assert_close(run(value), model(value))


class Holder(nn.Module):
    def __init__(self, name, **options):
        super().__init__()
        sizes = (4, 3, 3) if name == "JordanRNN" else (4, 3)
        self.inner = getattr(fastrnn, name)(*sizes, **options)

    def forward(self, value, hx):
        return self.inner(torch.tanh(value), hx)


class Sampler(nn.Module):
    """A decoder that starts from a state alone, and asks for more than torch.nn gives."""

    def __init__(self):
        super().__init__()
        self.lstm = fastrnn.LSTM(4, 3)
        self.register_buffer("start", torch.randn(5, 2, 4))

    def forward(self, h, c, lengths):
        _, states = self.lstm(self.start, (h, c))
        output, (h, c), cells = self.lstm(self.start, states, lengths=lengths, return_states=True)
        return output, h + c, cells


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
class TestSymbolicTrace:
    """torch.fx makes our modules nodes of its graph, as it does torch.nn's."""

    @pytest.mark.parametrize("name", (*LAYERS, *CELLS, "JordanRNN"))
    @pytest.mark.parametrize("has_hx", (False, True))
    def test_modules_are_leaves(self, name, has_hx):
        model = Holder(name)
        traced = torch.fx.symbolic_trace(model, concrete_args=None if has_hx else {"hx": None})
        nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
        assert [node.target for node in nodes] == ["inner"]
        assert not [node for node in traced.graph.nodes if node.op == "get_attr"]
        value, shape = (torch.randn(2, 4), (2, 3)) if name in CELLS else (torch.randn(5, 2, 4), (1, 2, 3))
        hx = torch.randn(shape) if has_hx else None
        hx = (hx, hx) if has_hx and name.startswith("LSTM") else hx
        assert_same(flatten(model(value, hx)), flatten(traced(value, hx)), 0.0)

    def test_states_alone_may_be_traced(self):
        model = Sampler()
        traced = torch.fx.symbolic_trace(model)
        h, c, lengths = torch.randn(1, 2, 3), torch.randn(1, 2, 3), torch.tensor([2, 5])
        for ours, expected in zip(traced(h, c, lengths), model(h, c, lengths), strict=True):
            assert torch.equal(ours, expected)

    def test_a_layer_by_itself_is_refused(self):
        with pytest.raises(torch.fx.proxy.TraceError, match=r"cannot look into GRU.*Sequential"):
            torch.fx.symbolic_trace(fastrnn.GRU(4, 3))
