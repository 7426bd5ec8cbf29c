"""Which path runs, what explain says of it, what the profiler shows of it, and what the switch for TF32 does."""

import re

import pytest
import torch
from cases import KERNELS, LAYERS
from drawn import LENGTHS, Draw, case_of, floating
from machine import is_hopper
from measure import ON_CHIP, SURELY_FITS, allowed_paths, explained, needs_gpu
from precisions import PRECISIONS

import fastrnn

pytestmark = needs_gpu

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)


def named_ranges(function):
    """What fastrnn called its passes in the profile of a function: {"forward persistent", ...}."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function()
    matches = (re.fullmatch(r"fastrnn::((?:forward|backward) \w+)", event.key) for event in profile.key_averages())
    return {match[1] for match in matches if match}


def train(module, args, kwargs):
    sum(out.float().sum() for out in floating(module(*args, **kwargs))).backward()


@by_kernel
@by_precision
@pytest.mark.parametrize("layout", ("batched", "packed", *LENGTHS))
def test_what_explain_says_is_what_runs(kernel, precision, layout, device):
    precision.switch()
    case = case_of(kernel, 64, 20, 6, layout, bidirectional=True)
    module, args, kwargs = Draw.of(case, precision.dtype).arguments(precision, device)
    rows = fastrnn.explain(module, *args, **kwargs).rows
    assert len(rows) == 4
    assert {row.path for row in rows} <= allowed_paths(case, precision)
    assert all(row.reason and row.isa.startswith("sm_") and row.threads > 0 for row in rows)
    assert {f"{row.pass_} {row.path}" for row in rows} == named_ranges(lambda: train(module, args, kwargs))


@by_layer
@pytest.mark.parametrize("name", ("tf32", "f16", "bf16"))
def test_h100_and_h200_keep_these_weights_on_the_chip(layer, name, device):
    """What the other tests rely on to know which path a case must take."""
    if not is_hopper():
        pytest.skip("not an H100 or H200")
    precision = PRECISIONS[name]
    precision.switch()
    for hidden in (16, 48, 64, 128, 256, 512, 768, 1024):
        if hidden > SURELY_FITS[precision.dtype.itemsize]:
            continue
        module = getattr(fastrnn, layer)(8, hidden, dtype=precision.dtype, device=device)
        for batch in (1, 17, 256, 2048):
            value = torch.empty(4, batch, 8, dtype=precision.dtype, device=device)
            for row in fastrnn.explain(module, value).rows:
                assert row.path in ON_CHIP, f"H={hidden}, B={batch}, {row.pass_}: {row.reason}"


@pytest.mark.parametrize(
    ("name", "kernel", "size", "layout", "word"),
    (
        ("f64", "lstm", (32, 4, 5), "batched", "float64"),
        ("bf16", "lstm_proj", (32, 4, 5), "batched", "projection"),
        ("bf16", "lstm", (32, 4, 1), "batched", "single step"),
        ("bf16", "lstm", (40, 4, 5), "batched", "multiple of 16"),
    ),
)
def test_reasons(name, kernel, size, layout, word, device):
    """Why the streamed path, in a word that the user knows."""
    PRECISIONS[name].switch()
    for row in explained(case_of(kernel, *size, layout), PRECISIONS[name], device):
        assert row.path == "streamed"
        assert word in row.reason


def test_reason_where_the_weights_do_not_fit(device):
    module = fastrnn.LSTM(8, 8192, dtype=torch.bfloat16, device=device)
    for row in fastrnn.explain(module, torch.empty(4, 1, 8, dtype=torch.bfloat16, device=device)).rows:
        assert row.path == "streamed"
        assert "fit" in row.reason


@by_layer
def test_switch_for_tf32(layer, device):
    """torch.backends.cudnn's switch for RNNs, old style and new, decides between TF32 and float32 in full."""
    module = getattr(fastrnn, layer)(64, 64, device=device)
    value = torch.randn(20, 8, 64, device=device)
    exact = getattr(torch.nn, layer)(64, 64, dtype=torch.float64)
    exact.load_state_dict(module.state_dict())
    reference = exact(value.cpu().double())[0].to(device)

    def error_and_precision():
        error = (module(value)[0].double() - reference).norm() / reference.norm()
        (precision,) = {row.precision for row in fastrnn.explain(module, value).rows}
        return error.item(), precision

    torch.backends.cudnn.allow_tf32 = False
    in_full = error_and_precision()
    torch.backends.cudnn.allow_tf32 = True
    rounded = error_and_precision()
    assert in_full[0] < 1e-6 < 1e-5 < rounded[0] < 2e-3, "one of the two is not what the switch says"
    assert (in_full[1], rounded[1]) == ("float32", "float32 on TF32")
    torch.backends.cudnn.rnn.fp32_precision = "ieee"
    assert error_and_precision() == in_full
    torch.backends.cudnn.rnn.fp32_precision = "tf32"
    assert error_and_precision() == rounded


@by_layer
def test_backward_computes_as_forward_did(layer, device):
    """Whatever the switch says by then: backward reads what forward kept."""
    module = getattr(fastrnn, layer)(64, 64, device=device)
    value = torch.randn(20, 8, 64, device=device)

    def gradients(forward, backward):
        torch.backends.cudnn.allow_tf32 = forward
        output = module(value)[0]
        torch.backends.cudnn.allow_tf32 = backward
        return torch.autograd.grad(output.sum(), list(module.parameters()))

    for forward in (False, True):
        assert all(map(torch.equal, gradients(forward, forward), gradients(forward, not forward)))
    assert not all(map(torch.equal, gradients(False, False), gradients(True, True)))
