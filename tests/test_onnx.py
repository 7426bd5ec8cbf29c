"""torch.onnx.export, both of its exporters: layers become ONNX's own RNN, LSTM and GRU, which ONNX Runtime runs."""

import warnings
from collections import Counter

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn

REASON = "pip install onnx onnxscript onnxruntime"
onnx = pytest.importorskip("onnx", reason=REASON)
onnxruntime = pytest.importorskip("onnxruntime", reason=REASON)
pytest.importorskip("onnxscript", reason=REASON)

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings("ignore:.*deprecated.*", "ignore:.*legacy TorchScript.*"),
]

by_exporter = pytest.mark.parametrize("dynamo", (True, False))
PLAIN = {name: case for name, case in KERNELS.items() if name != "lstm_proj"}
PLAIN["gru_reset_before"] = ("GRU", {"reset_after": False})


class Model(nn.Module):
    """A layer or cell and all that it returns, in one row."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, value, *states):
        results = self.inner(value, states if len(states) > 1 else states[0] if states else None)
        return flat(results)


class Ragged(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, value, lengths):
        return flat(self.inner(value, lengths=lengths))


def flat(results):
    results = results if isinstance(results, tuple) else (results,)
    return tuple(t for result in results for t in (result if isinstance(result, tuple) else (result,)))


def build(kernel, **options):
    layer, more = PLAIN[kernel]
    return getattr(fastrnn, layer)(2, 5, **more | options).eval()


def states_of(layer, batch):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    return [torch.randn(rows, batch, layer.hidden_size) for _ in range(2 if layer.mode == "LSTM" else 1)]


def exported(model, given, dynamo, path, dynamic=None):
    """The model in a file, and that loaded; `dynamic` names dimensions, for each argument, whose size may change."""
    names = [f"value{index}" for index in range(len(given))]
    options = {}
    if dynamic and dynamo:
        sizes = tuple({dim: torch.export.Dim(name) for dim, name in dims.items()} for dims in dynamic)
        first, *rest = ("value", "lengths") if isinstance(model, Ragged) else ("value", "states")
        options["dynamic_shapes"] = {first: sizes[0], rest[0]: sizes[1] if isinstance(model, Ragged) else sizes[1:]}
    elif dynamic:
        options["dynamic_axes"] = dict(zip(names, dynamic, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, given, path, dynamo=dynamo, input_names=names, verbose=False, **options)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def run(path, given):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    results = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
    return [torch.from_numpy(result) for result in results]


def assert_runs_as(path, model, given):
    with torch.no_grad():
        expected = model(*given)
    for actual, result in zip(run(path, given), expected, strict=True):
        torch.testing.assert_close(actual, result, rtol=1e-4, atol=1e-4)  # exponentials of single precision


def operators(graph):
    return Counter(node.op_type for node in graph.graph.node)


@by_exporter
@pytest.mark.parametrize("kernel", PLAIN)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_layers(kernel, bidirectional, dynamo, tmp_path):
    """Stacked, with states, at other sizes than those it was exported with."""
    layer = build(kernel, num_layers=2, bidirectional=bidirectional)
    model, path = Model(layer), tmp_path / "model.onnx"
    dynamic = [{0: "T", 1: "B"}, *[{1: "B"}] * len(states_of(layer, 2))]
    graph = exported(model, (torch.randn(4, 2, 2), *states_of(layer, 2)), dynamo, path, dynamic)
    assert operators(graph)[PLAIN[kernel][0]] == 2
    assert not any(node.domain.startswith("fastrnn") for node in graph.graph.node)
    for steps, batch in ((4, 2), (7, 3), (1, 1)):
        assert_runs_as(path, model, (torch.randn(steps, batch, 2), *states_of(layer, batch)))


@by_exporter
@pytest.mark.parametrize("kernel", PLAIN)
def test_forms_of_input(kernel, dynamo, tmp_path):
    """batch_first, without states, without biases; a single sequence."""
    layer = build(kernel, batch_first=True, bias=False, bidirectional=True)
    for index, shape in enumerate(((3, 4, 2), (4, 2))):
        path = tmp_path / f"{index}.onnx"
        exported(Model(layer), (torch.randn(shape),), dynamo, path)
        assert_runs_as(path, Model(layer), (torch.randn(shape),))


@by_exporter
@pytest.mark.parametrize("kernel", PLAIN)
def test_lengths(kernel, dynamo, tmp_path):
    """They become sequence_lens; nothing is sorted."""
    model, path = Ragged(build(kernel, num_layers=2, bidirectional=True, batch_first=True)), tmp_path / "model.onnx"
    dynamic = [{0: "B", 1: "T"}, {0: "B"}]
    graph = exported(model, (torch.randn(3, 4, 2), torch.tensor([2, 4, 1])), dynamo, path, dynamic)
    assert not operators(graph).keys() & {"TopK", "ScatterElements", "GatherElements"}
    for lengths in ([2, 4, 1], [5, 5], [1, 6, 3, 0]):
        value = torch.randn(len(lengths), max(lengths), 2)
        assert_runs_as(path, model, (value, torch.tensor(lengths)))


@by_exporter
@pytest.mark.parametrize("name", CELLS)
def test_cells(name, dynamo, tmp_path):
    cell, path = getattr(fastrnn, name)(2, 5).eval(), tmp_path / "model.onnx"
    given = (torch.randn(3, 2), *[torch.randn(3, 5) for _ in range(2 if name == "LSTMCell" else 1)])
    graph = exported(Model(cell), given, dynamo, path)
    assert operators(graph)[name.removesuffix("Cell")] == 1
    assert_runs_as(path, Model(cell), tuple(map(torch.randn_like, given)))


@by_exporter
@pytest.mark.parametrize("name", LAYERS)
def test_converted(name, dynamo, tmp_path):
    """What is torch.nn's, too; with Linear around it, and in training mode's dropout left out by eval()."""
    layer = getattr(nn, name)(2, 5, 2, dropout=0.5)

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = layer, nn.Linear(5, 3)

        def forward(self, value):
            return self.head(self.layer(value)[0]).tanh()

    model, path = fastrnn.convert(Tagger()).eval(), tmp_path / "model.onnx"
    exported(model, (torch.randn(4, 2, 2),), dynamo, path)
    value = torch.randn(4, 2, 2)
    torch.testing.assert_close(run(path, (value,))[0], model(value).detach(), rtol=1e-4, atol=1e-4)


@by_exporter
def test_half(dynamo, tmp_path):
    """Half types are computed in float32 there, too."""
    layer, path = build("gru").half(), tmp_path / "model.onnx"
    exported(Model(layer), (torch.randn(4, 2, 2).half(),), dynamo, path)
    value = torch.randn(4, 2, 2).half()
    for actual, expected in zip(run(path, (value,)), Model(layer)(value), strict=True):
        torch.testing.assert_close(actual, expected.detach(), rtol=4e-3, atol=4e-3)


class TestWhatOnnxCannotSay:
    def refuse(self, model, given, dynamo, path, *words):
        with pytest.raises((torch.onnx.OnnxExporterError, NotImplementedError)) as caught:
            exported(model, given, dynamo, path)
        for word in words:
            assert word in str(caught.value)

    @by_exporter
    @pytest.mark.parametrize(
        "options",
        (
            {"proj_size": 3},  # torch.onnx of 2.13 fails with torch.nn's, too, or writes what no runtime takes
            {"peephole": True},
            {"coupled": True},
            {"layer_norm": True},
            {"zoneout": 0.1},
            {"tbptt_steps": 2},
        ),
    )
    def test_options(self, options, dynamo, tmp_path):
        model = Model(fastrnn.LSTM(2, 5, **options)).eval()
        (name,) = options
        self.refuse(model, (torch.randn(4, 2, 2),), dynamo, tmp_path / "model.onnx", "LSTM: no export", name)

    @by_exporter
    def test_jordan(self, dynamo, tmp_path):
        model = Model(fastrnn.JordanRNN(2, 5, 3))
        self.refuse(model, (torch.randn(4, 2, 2),), dynamo, tmp_path / "model.onnx", "JordanRNN: ONNX has no")

    def test_packed(self, tmp_path):
        class Packing(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = fastrnn.GRU(2, 5)

            def forward(self, value, lengths):
                return pad_packed_sequence(self.layer(pack_padded_sequence(value, lengths))[0])[0]

        model, given, path = Packing(), (torch.randn(4, 2, 2), torch.tensor([4, 2])), tmp_path / "model.onnx"
        self.refuse(
            model, given, False, path, "GRU: no export", "PackedSequence", "lengths=", "fastrnn.to_torch(model)"
        )
        expected = model(*given).detach()
        exported(fastrnn.to_torch(model).eval(), given, False, path)
        torch.testing.assert_close(run(path, given)[0], expected, rtol=1e-4, atol=1e-4)

    @by_exporter
    def test_what_gradients_alone_see(self, dynamo, tmp_path):
        """Not exported, and not missed."""
        model, path = (
            Model(fastrnn.LSTM(2, 5, tbptt_steps=2, state_grad_clip=1.0, num_heads=5)).eval(),
            tmp_path / "m.onnx",
        )
        with torch.no_grad():
            exported(model, (torch.randn(4, 2, 2),), dynamo, path)
        assert_runs_as(path, model, (torch.randn(4, 2, 2),))
