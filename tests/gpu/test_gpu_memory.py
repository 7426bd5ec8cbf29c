"""Memory: what is kept, where it comes from, what happens without any, and offsets past 2**31 elements."""

import gc

import pytest
import torch
from cases import LAYERS
from drawn import case_of, kernel_of
from machine import sized
from measure import needs_gpu
from precisions import PRECISIONS
from torch.utils._pytree import tree_leaves

import fastrnn

by_layer = pytest.mark.parametrize("layer", LAYERS)
by_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)

MIB = 2**20


def need_free_memory(gib):
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gib:
        pytest.skip(f"takes {gib} GiB of the GPU's memory, {free:.0f} are free")


def requested():
    """Bytes that torch's allocator has given out and not got back, before it rounded them up."""
    gc.collect()
    return torch.cuda.memory_stats()["requested_bytes.all.current"]


def build(layer, precision, device, hidden=64, **options):
    precision.switch()
    return getattr(fastrnn, layer)(16, hidden, dtype=precision.dtype, device=device, **options)


@needs_gpu
@by_layer
@by_precision
@pytest.mark.parametrize("bidirectional", (False, True))
def test_what_is_kept_for_backward(layer, precision, bidirectional, device):
    """Output, states, and what explain says; without a gradient only the results."""
    module = build(layer, precision, device, bidirectional=bidirectional)
    value = torch.randn(50, 20, 16, dtype=precision.dtype, device=device)
    hx = torch.zeros(1 + bidirectional, 20, 64, dtype=precision.dtype, device=device)
    states = (hx, hx) if layer == "LSTM" else hx
    rows = fastrnn.explain(module, value, states).rows
    reserve = sum(row.reserve_bytes for row in rows if row.pass_ == "forward")
    for recorded in (False, True):
        with torch.set_grad_enabled(recorded):
            module(value, states)
            before = requested()
            results = tree_leaves(module(value, states))
        kept = requested() - before - sum(result.nbytes for result in results)
        assert kept <= (reserve if recorded else 0)
    # Values of a row and unit: LSTM four gates and c, GRU four, Elman none; c in float32 at least.
    itemsize = precision.dtype.itemsize
    values = {"RNN": 0, "GRU": 4 * itemsize, "LSTM": 4 * itemsize + max(itemsize, 4)}[layer]
    assert reserve <= 50 * 20 * 64 * (1 + bidirectional) * values


@needs_gpu
@by_layer
@by_precision
def test_all_memory_is_torchs(layer, precision, device):
    """Beside what torch's allocator took, the GPU has no less free memory than before; and all of it comes back."""
    module = build(layer, precision, device, 512, bidirectional=True)

    def train(batch):
        value = torch.randn(256, batch, 16, dtype=precision.dtype, device=device)
        output, _ = module(value)
        torch.autograd.grad(output.sum(), list(module.parameters()))

    train(256)
    torch.cuda.synchronize()
    held, free, reserved = requested(), torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
    train(512)
    torch.cuda.synchronize()
    assert requested() == held
    grown = torch.cuda.memory_reserved() - reserved
    taken = free - torch.cuda.mem_get_info()[0]
    # A hidden copy of gates or states would take hundreds of MiB; code that the driver loads late takes a few.
    assert taken - grown <= 64 * MIB
    torch.cuda.empty_cache()


@needs_gpu
@by_layer
def test_out_of_memory(layer, device):
    """torch's error, forward and backward, and the next call is right."""
    precision = PRECISIONS["f16"]
    module = build(layer, precision, device)
    small = torch.randn(5, 3, 16, dtype=precision.dtype, device=device)

    def gradients():
        return torch.autograd.grad(module(small)[0].sum(), list(module.parameters()))

    expected = gradients()
    value = torch.randn(1000, 1000, 16, dtype=precision.dtype, device=device)
    output, _ = module(value)
    upstream = torch.ones_like(output)
    total = torch.cuda.mem_get_info()[1]

    def backward():
        return torch.autograd.grad(output, list(module.parameters()), upstream, retain_graph=True)

    try:
        for call in (lambda: module(value), backward):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 40 * MIB) / total)
            with pytest.raises(RuntimeError, match=r"(?i)memory"):
                call()
            assert all(map(torch.equal, gradients(), expected))
            torch.cuda.set_per_process_memory_fraction(1.0)
            call()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def as_tuple(states):
    return states if isinstance(states, tuple) else (states,)


def check_against_parts(module, value, upstream, steps, tolerance):
    """A call, and its gradients, are those of calls of so many steps, which hand their states on."""
    with torch.no_grad():
        output, finals = module(value)
        states, starts = None, []
        for part, expected in zip(value.split(steps), output.split(steps), strict=True):
            starts.append(states)
            result, states = module(part, states)
            assert_near(expected, result, tolerance)
        for final, expected in zip(as_tuple(finals), as_tuple(states), strict=True):
            assert_near(final, expected, tolerance)
    del result, expected, output

    weights = list(module.parameters())
    value.requires_grad_()
    output = module(value)[0]
    gradient, *of_weights = torch.autograd.grad(output, [value, *weights], upstream)
    del output
    sums = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights]
    of_states = None
    parts = zip(value.split(steps), upstream.split(steps), gradient.split(steps), starts, strict=True)
    for part, given, expected, start in reversed(list(parts)):
        leaf = part.detach().requires_grad_()
        if start is None:
            start = tuple(torch.zeros_like(state) for state in as_tuple(states))
        start = tuple(state.detach().requires_grad_() for state in as_tuple(start))
        result, ends = module(leaf, start if len(start) > 1 else start[0])
        of_states = of_states or [torch.zeros_like(state) for state in start]
        results = torch.autograd.grad([result, *as_tuple(ends)], [leaf, *start, *weights], [given, *of_states])
        assert_near(expected, results[0], tolerance)
        of_states = results[1 : 1 + len(start)]
        for total, more in zip(sums, results[1 + len(start) :], strict=True):
            total += more
    for actual, expected in zip(of_weights, sums, strict=True):
        assert_near(actual, expected, tolerance)


def assert_near(actual, expected, tolerance):
    scale = max(1.0, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= tolerance * scale  # False for NaN


# Which tensor is larger than 2**31 elements: cell, precision, (T, B, I, H).
HUGE = {
    "saved values, persistent": ("LSTM", "tf32", (2100, 512, 16, 512)),
    "saved values, streamed": ("LSTM", "f32", (260, 4200, 16, 504)),
    "saved values of GRU": ("GRU", "bf16", (2800, 512, 16, 512)),
    "input": ("RNN", "f16", (520, 2048, 2048, 16)),
}


@pytest.mark.parametrize("what", HUGE)
def test_past_two_to_the_31_elements(what, device):
    """Offsets past 2**31, forward and backward, against parts that stay below."""
    layer, name, sizes = HUGE[what]
    steps, batch, input_size, hidden = sized(sizes, (20, 3, 8, 16))
    if device.type == "cuda":
        widest = max(input_size, hidden * {"RNN": 1, "GRU": 3, "LSTM": 4}[layer])
        assert steps * batch * widest > 2**31
        need_free_memory(40)
    precision = PRECISIONS[name]
    precision.switch()
    module = getattr(fastrnn, layer)(input_size, hidden, dtype=precision.dtype, device=device)
    value = torch.randn(steps, batch, input_size, dtype=precision.dtype, device=device)
    upstream = torch.randn(steps, batch, hidden, dtype=precision.dtype, device=device)
    check_against_parts(module, value, upstream, max(1, steps // 10), 16 * precision.eps)


@by_layer
@pytest.mark.parametrize("name", ("f64", "tf32", "f16"))
def test_longer_than_cudnn_can(layer, name, device):
    """T = 70,000, where cuDNN ends at 65,535."""
    precision = PRECISIONS[name]
    precision.switch()
    case = case_of(kernel_of(layer), 64, 2, sized(70_000, 70))
    module = case.build(precision.dtype, fastrnn).to(device)
    value = torch.randn(case.seq, 2, 16, dtype=precision.dtype, device=device)
    upstream = torch.randn(case.seq, 2, 64, dtype=precision.dtype, device=device)
    check_against_parts(module, value, upstream, case.seq // 7, max(1e-10, 64 * precision.eps))
