"""CUDA graphs: what was captured computes, on every replay, what eager mode computes."""

import pytest
import torch
from cases import KERNELS, LAYERS
from drawn import Draw, case_of, floating
from measure import close, needs_gpu, results_of
from precisions import PRECISIONS
from torch import nn
from torch.utils._pytree import tree_leaves

import fastrnn

pytestmark = needs_gpu

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)


def captured(function):
    """The graph of a call, warmed up as torch says, and its results, which every replay overwrites."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def check_replays(function, leaves, eps, generate=lambda index: None):
    """Replays on fresh numbers in the same tensors are right; replays on the same numbers have the same bits."""
    graph, results = captured(function)
    for index in range(3):
        with torch.no_grad():
            for leaf in leaves:
                leaf.copy_(torch.randn_like(leaf))
        generate(index)
        torch.manual_seed(index)
        expected = [result.clone() for result in function()]
        kept = []
        for _ in range(2):
            torch.manual_seed(index)
            graph.replay()
            kept.append([result.clone() for result in results])
        assert all(map(torch.equal, *kept))
        close(kept[0], expected, eps)


@by_kernel
@by_precision
@pytest.mark.parametrize("training", (False, True))
def test_dense(kernel, precision, training, device):
    precision.switch()
    case = case_of(kernel, 64, 20, 12, bidirectional=True)
    module, args, kwargs = Draw.of(case, precision.dtype).arguments(precision, device)

    def infer():
        with torch.no_grad():
            return floating(module(*args, **kwargs))

    def train():
        return results_of(module, args, kwargs)

    check_replays(train if training else infer, tree_leaves(args), precision.eps)


@by_layer
@by_precision
def test_dropout(layer, precision, device):
    """Forward and backward with masks: those that eager mode draws after the same seed."""
    precision.switch()
    module = getattr(fastrnn, layer)(16, 64, 2, dropout=0.5, dtype=precision.dtype, device=device)
    value = torch.randn(8, 20, 16, dtype=precision.dtype, device=device, requires_grad=True)
    check_replays(lambda: results_of(module, (value,), {}), [value], precision.eps)

    graph, results = captured(lambda: results_of(module, (value,), {}))
    graph.replay()
    first = results[0].clone()
    graph.replay()
    assert not torch.equal(results[0], first), "a second replay must draw anew"


@by_layer
@by_precision
def test_lengths_change_between_replays(layer, precision, device):
    """Lengths on the GPU are read by the kernels, each time: nothing of them is in the graph."""
    precision.switch()
    module = getattr(fastrnn, layer)(16, 64, bidirectional=True, dtype=precision.dtype, device=device)
    value = torch.randn(9, 20, 16, dtype=precision.dtype, device=device, requires_grad=True)
    lengths = torch.full((20,), 9, device=device)

    def new_lengths(index):
        lengths.copy_((torch.arange(20) * (index + 3)) % 10)

    check_replays(lambda: results_of(module, (value,), {"lengths": lengths}), [value], precision.eps, new_lengths)


@by_layer
@pytest.mark.parametrize("name", ("f64", "tf32", "f16"))
def test_packed(layer, name, device):
    """The batch sizes are part of the graph, as of the call."""
    precision = PRECISIONS[name]
    precision.switch()
    module = getattr(fastrnn, layer)(16, 64, bidirectional=True, dtype=precision.dtype, device=device)
    value = torch.randn(9, 20, 16, dtype=precision.dtype, device=device)
    packed = nn.utils.rnn.pack_padded_sequence(value, torch.arange(20) % 9 + 1, enforce_sorted=False)
    packed.data.requires_grad_()
    check_replays(lambda: results_of(module, (packed,), {}), [packed.data], precision.eps)


@by_layer
@pytest.mark.parametrize("name", ("f64", "tf32", "bf16"))
@pytest.mark.parametrize("dropout", (0.0, 0.5))
def test_make_graphed_callables(layer, name, dropout, device):
    """The layer as a drop-in for itself, with gradients, in a training loop."""
    precision = PRECISIONS[name]
    precision.switch()
    options = {"num_layers": 2, "dropout": dropout, "dtype": precision.dtype, "device": device}
    eager, module = (getattr(fastrnn, layer)(16, 64, **options) for _ in range(2))
    module.load_state_dict(eager.state_dict())
    sample = torch.randn(8, 20, 16, dtype=precision.dtype, device=device, requires_grad=True)
    graphed = torch.cuda.make_graphed_callables(module, (sample,))
    for seed in range(3):
        value = torch.randn_like(sample)
        results = []
        for each, owner in ((eager, eager), (graphed, module)):
            leaf = value.clone().requires_grad_()
            torch.manual_seed(seed)
            outputs = tree_leaves(each(leaf))
            gradients = torch.autograd.grad(sum(out.float().sum() for out in outputs), [leaf, *owner.parameters()])
            results.append([result.detach().clone() for result in (*outputs, *gradients)])
        close(results[1], results[0], precision.eps)
