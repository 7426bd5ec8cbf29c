"""Autocast and GradScaler on the GPU, where the kernels themselves compute in half types."""

import pytest
import torch
from cases import CELLS, LAYERS
from drawn import LENGTHS
from machine import REHEARSE
from measure import ON_CHIP
from precisions import PRECISIONS
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._pytree import tree_leaves

import fastrnn

by_half = pytest.mark.parametrize("precision", [PRECISIONS["f16"], PRECISIONS["bf16"]], ids=lambda p: p.name)
by_layer = pytest.mark.parametrize("layer", LAYERS)


def results(module, value, form):
    """Output and states; a weighting of them all has the gradients."""
    if form == "hx":
        hx = value.new_ones(2, 18, 32) / 4
        return tree_leaves(module(value, (hx, hx) if isinstance(module, fastrnn.LSTM) else hx))
    lengths = torch.arange(18) % 6 + 1
    if form == "packed":
        output, finals = module(pack_padded_sequence(value, lengths, enforce_sorted=False))
        return [output.data, *tree_leaves(finals)]
    if form in LENGTHS:
        return tree_leaves(module(value, lengths=lengths.to(value.device) if form == "lengths_gpu" else lengths))
    return tree_leaves(module(value))


@by_layer
@by_half
@pytest.mark.parametrize("form", ("dense", "hx", "packed", *LENGTHS))
def test_autocast_is_a_layer_of_the_lower_type(layer, precision, form, device):
    """To the bit; gradients come back in the type of their weights."""
    wide = getattr(fastrnn, layer)(16, 32, bidirectional=True, device=device)
    half = getattr(fastrnn, layer)(16, 32, bidirectional=True, dtype=precision.dtype, device=device)
    half.load_state_dict(wide.state_dict())
    value = torch.randn(6, 18, 16, device=device)
    with torch.autocast(device.type, dtype=precision.dtype):
        actual = results(wide, value, form)
    expected = results(half, value.to(precision.dtype), form)
    assert {out.dtype for out in actual} == {precision.dtype}
    if not REHEARSE:  # the CPU computes in float32, from weights that nobody rounded
        assert all(map(torch.equal, actual, expected))
    gradients = []
    for module, outputs in ((wide, actual), (half, expected)):
        upstream = [torch.linspace(-1, 1, out.numel(), device=device).view_as(out).to(out) for out in outputs]
        gradients.append(torch.autograd.grad(outputs, list(module.parameters()), upstream))
    for ours, reference in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        if not REHEARSE:
            assert torch.equal(ours, reference.float())


@by_layer
@by_half
def test_autocast_takes_a_tensor_core_path(layer, precision, device):
    if REHEARSE:
        pytest.skip("the CPU has one path")
    module, value = getattr(fastrnn, layer)(16, 32, device=device), torch.randn(6, 18, 16, device=device)
    torch.backends.cudnn.allow_tf32 = False
    with torch.autocast("cuda", dtype=precision.dtype):
        assert {row.path for row in fastrnn.explain(module, value).rows} <= ON_CHIP


@pytest.mark.parametrize("cell", CELLS)
@by_half
def test_cells_under_autocast(cell, precision, device):
    module, value = getattr(fastrnn, cell)(16, 32, device=device), torch.randn(18, 16, device=device)
    with torch.autocast(device.type, dtype=precision.dtype):
        state = module(value)
        again = module(value, state)  # their own results as states: half beside float32 weights
    assert {result.dtype for result in (*tree_leaves(state), *tree_leaves(again))} == {precision.dtype}


@by_layer
@by_half
def test_grad_scaler(layer, precision, device):
    """The usual loop learns, and a step with an infinity in it is skipped."""
    model, head = getattr(fastrnn, layer)(16, 32, device=device), nn.Linear(32, 1, device=device)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    value = torch.randn(6, 32, 16, device=device)
    target = value.cumsum(0).mean(2, keepdim=True).tanh()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=precision.dtype):
            loss = (head(model(value)[0]).float() - target).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    before = [weight.clone() for weight in parameters]
    scale = scaler.get_scale()
    optimizer.zero_grad()
    with torch.autocast(device.type, dtype=precision.dtype):
        loss = model(value)[0].float().sum() * float("inf")
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(map(torch.equal, before, parameters))
    assert scaler.get_scale() < scale
