"""The GEMMs before and after the time loop, by either code that computes them, whichever this processor prefers.

tests/kernels/test_gemm.cpp tests our own by itself, in memory where no wrong access goes unnoticed.
"""

import pytest
import torch
from cases import DTYPES, KERNELS, Case, check_parity
from torch import nn

import fastrnn
from fastrnn import _native

# T, B, I, H: results that are wide, narrow (I of one to a few features, which are computed transposed) and neither.
SHAPES = ((40, 24, 72, 80), (90, 16, 1, 40), (90, 16, 5, 40), (60, 16, 20, 33), (3, 130, 64, 64))

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))


@pytest.mark.isa
@by_dtype
@pytest.mark.parametrize("kernel", ("rnn_tanh", "gru", "lstm", "lstm_proj"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parity(kernel, dtype, shape, large_gemms):
    seq, batch, inputs, hidden = shape
    layer, options = KERNELS[kernel]
    for layout in ("batched", "packed"):
        case = Case(layer, options, layout, seq=seq, batch=batch, input_size=inputs, hidden_size=hidden)
        check_parity(case, dtype)


@pytest.mark.parametrize("name", ("RNN", "GRU", "LSTM"))
def test_our_own_give_the_same_bits_on_any_number_of_threads(name):
    """Which torch's GEMM does not promise."""
    layer, input = getattr(fastrnn, name)(70, 90), torch.randn(50, 20, 70)
    _native._C.force_panel_gemms(True)
    try:
        outputs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with torch.no_grad():
                outputs.append(layer(input)[0])
    finally:
        _native._C.force_panel_gemms(None)
    assert all(torch.equal(outputs[0], output) for output in outputs[1:])


@pytest.mark.parametrize("features", (1, 5, 64))
def test_long_sums_are_as_exact_as_torchs(features, large_gemms):
    """Weight gradients over 6,400 rows: RMS error against float64. Sums in order have 5 times torch.nn's."""
    layers = [module(features, 64) for module in (fastrnn.RNN, nn.RNN)]
    exact = nn.RNN(features, 64, dtype=torch.float64)
    input = torch.randn(1, 6400, features)
    with torch.no_grad():
        for layer in (layers[1], exact):
            layer.load_state_dict(layers[0].state_dict())
    for layer in (*layers, exact):
        layer(input.to(layer.weight_hh_l0.dtype))[0].sum().backward()
    ours, theirs = [(layer.weight_ih_l0.grad - exact.weight_ih_l0.grad).square().mean().sqrt() for layer in layers]
    assert ours <= 1.5 * theirs


@by_dtype
@pytest.mark.parametrize("rows", (1, 15, 16, 17, 333, 6000))
def test_bias_gradients(dtype, rows):
    """Sums over rows, short and long, against sums in float64."""
    layer = fastrnn.RNN(3, 37, dtype=dtype)
    input = torch.randn(rows, 1, 3, dtype=dtype)
    output, _ = layer(input)
    output.retain_grad()
    output.sum().backward()
    exact = fastrnn.RNN(3, 37, dtype=torch.float64)
    exact.load_state_dict(layer.state_dict())
    exact(input.double())[0].sum().backward()
    scale = exact.bias_ih_l0.grad.abs().max()
    tolerance = 64 * torch.finfo(dtype).eps * max(rows, 16) ** 0.5 * scale
    assert (layer.bias_ih_l0.grad.double() - exact.bias_ih_l0.grad).abs().max() <= tolerance
