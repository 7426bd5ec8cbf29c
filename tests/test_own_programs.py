"""Layers of one's own where a program leaves Python, or counts or distributes what they do."""

import pytest
import torch
from own_cells import (
    CELLS,
    LSTM,
    Highway,
    IndRNN,
    Peephole,
    Readout,
    by_cell,
    by_quick_cell,
    on_states,
    randn,
    run_python,
    states_of,
    tensors,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.export import Dim, export
from torch.utils.flop_counter import FlopCounterMode

import fastrnn

pytestmark = [pytest.mark.usefixtures("kept_cells"), pytest.mark.thorough]

F64 = {"dtype": torch.float64}
by_strict = pytest.mark.parametrize("strict", (True, False), ids=("strict", "nonstrict"))
STEPS_AND_BATCH = {0: Dim("steps", min=2), 1: Dim("batch", min=2)}


class Model(nn.Module):
    """A layer with a head, as it would be deployed."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 5, 2, bidirectional=True, **F64)
        self.head = nn.Linear(10, 2, **F64)

    def forward(self, input):
        return self.head(self.rnn(input)[0])


def assert_equal(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance or {"rtol": 1e-9, "atol": 1e-10})


def results_of(module, *given, **how):
    """Of a call, and the gradients of a loss of them."""
    leaves = [leaf.requires_grad_() for leaf in tensors(given)] + list(module.parameters())
    results = tensors(module(*given, **how))
    loss = sum((index + 1) * result.sin().sum() for index, result in enumerate(results))
    return [*results, *torch.autograd.grad(loss, leaves)]


class TestCompile:
    @by_cell
    def test_fullgraph(self, kind):
        layer = kind(3, 5, num_layers=2, bidirectional=True, **F64)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        value, hx = randn(4, 2, 3), states_of(layer, 2)
        assert_equal(results_of(compiled, value, hx), results_of(layer, value, hx))
        with torch.no_grad():
            assert_equal(tensors(compiled(value, hx)), tensors(layer(value, hx)))
        torch._dynamo.reset()

    @by_quick_cell
    def test_fullgraph_of_all_that_a_call_takes(self, kind):
        layer = kind(3, 5, zoneout=0.2, **F64).eval()
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        given = {
            "resets": torch.rand(4, 2) < 0.3,
            "reset_state": states_of(layer, 2),
            "lengths": torch.tensor([4, 2]),
            "return_states": True,
        }
        value, hx = randn(4, 2, 3), states_of(layer, 2)
        assert_equal(results_of(compiled, value, hx, **given), results_of(layer, value, hx, **given))
        step = kind.Cell(3, 5, **F64)
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        state = on_states(lambda one: one[0].detach().clone(), hx)
        assert_equal(results_of(compiled, value[0].detach(), state), results_of(step, value[0].detach(), state))
        torch._dynamo.reset()

    def test_inductor(self):
        model = nn.ModuleList([kind(3, 5, **F64) for kind in (LSTM, IndRNN, Readout)])

        def run(value):
            return [layer(value)[0] for layer in model]

        value = randn(4, 2, 3)
        assert_equal(torch.compile(run, fullgraph=True)(value), run(value))
        torch._dynamo.reset()


class TestExport:
    @by_quick_cell
    @by_strict
    def test_dynamic_steps_and_batch(self, kind, strict, tmp_path):
        model = Model(kind).eval()
        program = export(model, (randn(4, 6, 3),), dynamic_shapes=(STEPS_AND_BATCH,), strict=strict)
        torch.export.save(program, tmp_path / "program.pt2")
        for run in (program.module(), torch.export.load(tmp_path / "program.pt2").module()):
            for steps, batch in ((7, 5), (2, 2), (20, 9)):
                value = randn(steps, batch, 3)
                assert_equal([run(value)], [model(value)])

    def test_trains(self):
        model = Model(Peephole)
        value = randn(4, 2, 3)
        program = export(model, (value,)).module()
        program(value).sin().sum().backward()
        model(value).sin().sum().backward()
        theirs = dict(model.named_parameters())
        for name, parameter in program.named_parameters():
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-9, atol=1e-10)

    def test_in_another_process(self, tmp_path):
        """Which finds the kernels on disk before anything has called the layer."""
        model, value = Model(LSTM).eval(), randn(4, 2, 3)
        torch.export.save(export(model, (value,)), tmp_path / "program.pt2")
        torch.save((value, model(value)), tmp_path / "expected.pt")
        code = (
            "import torch, own_cells; run = torch.export.load('program.pt2').module()\n"
            "value, expected = torch.load('expected.pt'); torch.testing.assert_close(run(value), expected)"
        )
        run_python(code, tmp_path)

    def test_of_another_version(self, tmp_path):
        """A program knows the cell that it was exported with."""
        (tmp_path / "versions.py").write_text(
            "import torch, fastrnn\n"
            "def make(scale):\n"
            "    @fastrnn.cell(gates=1)\n"
            "    def Scaled(x, r, h):\n"
            "        return torch.tanh(scale * (x[0] + r[0]))\n"
            "    return Scaled\n"
        )
        run_python(
            "import torch, versions; layer = versions.make(1.0)(3, 5)\n"
            "torch.export.save(torch.export.export(layer, (torch.zeros(4, 2, 3),)), 'program.pt2')",
            tmp_path,
        )
        run_python(
            "import torch, versions; versions.make(2.0)\n"
            "try:\n"
            "    torch.export.load('program.pt2').module()(torch.zeros(4, 2, 3))\n"
            "except RuntimeError as error:\n"
            "    assert \"another version of 'scaled', scaled@\" in str(error), error\n"
            "else:\n"
            "    raise AssertionError('it ran')",
            tmp_path,
        )


@by_cell
def test_fake_tensors(kind):
    with FakeTensorMode():
        layer = kind(3, 5, num_layers=2)
        output, hy = layer(torch.randn(4, 2, 3))
        assert isinstance(output, FakeTensor)
        assert output.shape == (4, 2, 5)
        assert all(state.shape == (2, 2, 5) for state in tensors(hy))
        output.sum().backward()
        assert layer.weight_ih_l0.grad.shape == layer.weight_ih_l0.shape


def test_flops():
    """2 * M * N * K of each product; weights of single units take part in none."""
    rows, size, features = 7 * 3, 6, 4

    def counted(layer):
        with FlopCounterMode(display=False) as forward:
            output = layer(torch.randn(7, 3, features))[0]
        with FlopCounterMode(display=False) as backward:
            output.sum().backward()
        return forward.get_total_flops(), backward.get_total_flops()

    of_input, recurrent = 2 * rows * size * features, 2 * rows * size * size
    expected = {
        LSTM: (4 * of_input, 4 * recurrent),
        Peephole: (4 * of_input, 4 * recurrent),
        IndRNN: (of_input, 0),
        Highway: (3 * of_input, 2 * recurrent),
        Readout: (3 * of_input, 3 * recurrent),
    }
    for kind, (ahead, steps) in expected.items():
        assert counted(kind(features, size)) == (ahead + steps, ahead + 2 * steps), kind.__name__


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
def test_ensembles_by_stacked_weights(kind):
    layers = [kind(3, 5, **F64) for _ in range(3)]
    weights, buffers = torch.func.stack_module_state(layers)
    value = randn(4, 2, 3)

    def run(weights, buffers):
        return torch.func.functional_call(layers[0], (weights, buffers), (value,))[0]

    ours = torch.func.vmap(run)(weights, buffers)
    assert_equal(ours, [layer(value)[0] for layer in layers])


def test_explain_counts_what_is_kept():
    layer = LSTM(3, 8)
    forward, backward = fastrnn.explain(layer, torch.randn(4, 2, 3)).rows
    assert forward.reserve_bytes == backward.reserve_bytes == 4 * 2 * 8 * 4 * (4 + 1)
