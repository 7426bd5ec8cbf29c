"""One call each of tools that look at models from outside: what they find is what they find of torch.nn's."""

import io

import pytest
import torch
from cases import LAYERS
from torch import nn

import fastrnn

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore")]

by_layer = pytest.mark.parametrize("name", LAYERS)


class Classifier(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.rnn = getattr(fastrnn, name)(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, value):
        return self.head(self.rnn(value)[0][:, -1])


def pair(name):
    """A model, and the same of torch.nn's."""
    model, theirs = Classifier(name).eval(), Classifier(name).eval()
    theirs.load_state_dict(model.state_dict())
    return model, fastrnn.to_torch(theirs)


def tool(name, package=None):
    return pytest.importorskip(name, reason=f"pip install {package or name}")


@by_layer
def test_torchinfo(name):
    torchinfo = tool("torchinfo")
    found = [torchinfo.summary(model, (2, 5, 3), verbose=0) for model in pair(name)]
    tables = [[(layer.class_name, layer.output_size, layer.num_params) for layer in one.summary_list] for one in found]
    assert tables[0] == tables[1]
    assert found[0].total_mult_adds == found[1].total_mult_adds > 0


@by_layer
def test_captum(name):
    attr = tool("captum.attr", "captum")
    value = torch.randn(2, 5, 3)
    ours, theirs = (attr.IntegratedGradients(model).attribute(value, target=1, n_steps=20) for model in pair(name))
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-4, atol=1e-4)
    assert ours.any()


@by_layer
def test_tensorboard(name, tmp_path):
    tool("tensorboard")
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard._pytorch_graph import graph

    model, value = Classifier(name), torch.randn(2, 5, 3)
    with SummaryWriter(tmp_path) as writer:
        writer.add_graph(model, value)
    assert list(tmp_path.glob("events*"))
    nodes = graph(model, value)[0].node
    assert {node.op for node in nodes if node.op.startswith("fastrnn")} == {"fastrnn::forward"}
    assert any(f"{name}[rnn]" in node.name for node in nodes)


@by_layer
def test_torchview(name):
    torchview = tool("torchview")
    drawn = [torchview.draw_graph(model, input_size=(2, 5, 3)) for model in pair(name)]
    edges = [sorted((begin.name, end.name) for begin, end in one.edge_list) for one in drawn]
    assert edges[0] == edges[1]
    assert any(name in edge for edge in edges[0])


@pytest.mark.parametrize("dynamo", (True, False))
def test_lightning_to_onnx(dynamo):
    lightning, onnx, onnxruntime = tool("lightning"), tool("onnx"), tool("onnxruntime")
    tool("onnxscript")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Classifier("GRU")

        def forward(self, value):
            return self.model(value)

    module, value, file = Module(), torch.randn(2, 5, 3), io.BytesIO()
    module.to_onnx(file, value, dynamo=dynamo)
    assert "GRU" in {node.op_type for node in onnx.load_model_from_string(file.getvalue()).graph.node}
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: value.numpy()})
    torch.testing.assert_close(torch.from_numpy(result), module(value).detach(), rtol=1e-4, atol=1e-4)
