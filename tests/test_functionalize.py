"""torch.func.functionalize, alone and among other transforms, against the call without it."""

import pytest
import torch
from cases import CELLS, KERNELS
from torch.func import functionalize, grad, vmap

import fastrnn

pytestmark = pytest.mark.thorough


def build(kernel, **options):
    layer, more = KERNELS[kernel]
    return getattr(fastrnn, layer)(2, 5, 2, **more | options, dtype=torch.float64)


def drawn():
    return torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)


def loss_of(output):
    return (output.sin() * torch.linspace(1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum()


def assert_same(module, call, value):
    """Results and gradients, in training and inference."""
    actual, expected = functionalize(call)(value), call(value)
    torch.testing.assert_close(actual, expected)
    wanted = (value, *module.parameters())
    gradients = [torch.autograd.grad(loss_of(output), wanted) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(functionalize(call)(value), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bidirectional", (False, True))
def test_layers(kernel, bidirectional):
    layer = build(kernel, bidirectional=bidirectional)
    assert_same(layer, lambda value: layer(value)[0], drawn())


def test_lengths():
    layer = build("lstm", bidirectional=True)
    assert_same(layer, lambda value: layer(value, lengths=[2, 4, 0])[0], drawn())


@pytest.mark.parametrize("options", ({"peephole": True}, {"layer_norm": True}, {"zoneout": 0.2}), ids=str)
def test_options(options):
    layer = build("lstm", **options).eval()
    resets = torch.rand(4, 3) < 0.5
    assert_same(layer, lambda value: layer(value, resets=resets)[0], drawn())


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    cell = getattr(fastrnn, name)(2, 5, dtype=torch.float64)

    def call(value):
        hx = cell(value[0])
        hx = cell(value[1], hx)
        return hx[0] if isinstance(hx, tuple) else hx

    assert_same(cell, call, drawn()[:2].detach().requires_grad_())


@pytest.mark.filterwarnings("ignore:The output of a fastrnn layer")  # of the eager call
@pytest.mark.parametrize("kernel", KERNELS)
def test_in_place_on_what_is_returned(kernel):
    layer = build(kernel)
    assert_same(layer, lambda value: layer(value)[0].add_(1).mul_(2), drawn())


@pytest.mark.parametrize("kernel", KERNELS)
def test_among_other_transforms(kernel):
    layer, value = build(kernel), drawn()

    def loss(value):
        return loss_of(layer(value)[0])

    def output(value):
        return layer(value)[0]

    expected = grad(loss)(value)
    torch.testing.assert_close(functionalize(grad(loss))(value), expected)
    torch.testing.assert_close(grad(functionalize(loss))(value), expected)
    for both in (functionalize(vmap(output, 1, 1)), vmap(functionalize(output), 1, 1)):
        torch.testing.assert_close(both(value), output(value))
