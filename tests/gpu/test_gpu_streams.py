"""The same bits on every run, on every stream and device; and a host that never waits for the GPU."""

import subprocess
import sys
from contextlib import contextmanager

import crowded
import pytest
import torch
from cases import KERNELS, LAYERS
from drawn import LENGTHS, Draw, case_of, kernel_of
from measure import close, needs_gpu, results_of
from precisions import PRECISIONS

import fastrnn

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_layer = pytest.mark.parametrize("layer", LAYERS)
by_precision = pytest.mark.parametrize("precision", PRECISIONS.values(), ids=PRECISIONS)

A_SECOND = 2_000_000_000  # of a GPU's clock, about


@by_kernel
@by_precision
@pytest.mark.parametrize("layout", ("batched", "packed", "lengths_gpu"))
@pytest.mark.parametrize("size", ((64, 35, 40), (512, 20, 20)), ids=str)
def test_same_bits_on_every_run(kernel, precision, layout, size, device):
    """Forward and backward, no switch set, whatever lies in the memory that they get."""
    assert not torch.are_deterministic_algorithms_enabled()
    precision.switch()
    case = case_of(kernel, *size, layout, bidirectional=True)
    module, args, kwargs = Draw.of(case, precision.dtype).arguments(precision, device)
    first = results_of(module, args, kwargs)
    assert all(result.isfinite().all() for result in first)
    for _ in range(3):
        rubbish = [torch.full((2**shift,), float("nan"), device=device) for shift in range(8, 24)]
        del rubbish
        assert all(map(torch.equal, first, results_of(module, args, kwargs)))


@contextmanager
def no_waiting():
    """Makes torch raise where its own operations would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@by_layer
@by_precision
@pytest.mark.parametrize("layout", ("batched", "packed", *LENGTHS))
def test_the_host_never_waits(layer, precision, layout, device):
    """It is through with forward and backward while the GPU still is busy with what came before."""
    precision.switch()
    case = case_of(kernel_of(layer), 32, 20, 8, layout, num_layers=2, bidirectional=True)
    module, args, kwargs = Draw.of(case, precision.dtype).arguments(precision, device)
    expected = results_of(module, args, kwargs)
    results_of(module, args, kwargs)  # the allocator has now what a call needs beside those results
    torch.cuda.synchronize()
    before = torch.cuda.Event()
    with no_waiting():
        torch.cuda._sleep(A_SECOND // 5)
        before.record()
        actual = results_of(module, args, kwargs)
        is_idle = before.query()
    assert not is_idle, "the host waited for the GPU"
    assert all(map(torch.equal, actual, expected))


@needs_gpu
@by_layer
@by_precision
def test_another_stream(layer, precision, device):
    """Work goes to the stream that is current: its input is written there, late, and nobody synchronises."""
    precision.switch()
    draw = Draw.of(case_of(kernel_of(layer), 64, 20, 8), precision.dtype)
    module, args, kwargs = draw.arguments(precision, device)
    expected = results_of(module, args, kwargs)
    late = torch.full_like(args[0], float("nan")).requires_grad_()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(A_SECOND // 20)
        with torch.no_grad():
            late.copy_(args[0])
        actual = results_of(module, (late, *args[1:]), kwargs)
    stream.synchronize()
    assert all(map(torch.equal, actual, expected))


@needs_gpu
@by_layer
@pytest.mark.parametrize("how", crowded.HOWS)
@pytest.mark.parametrize("hidden", crowded.HIDDEN)
def test_two_kernels_that_fill_the_gpu_at_once(layer, how, hidden):
    """In a process of its own: a hang fails the test and nothing else."""
    command = [sys.executable, crowded.__file__, how, layer, str(hidden)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


@needs_gpu
@by_layer
@by_precision
def test_another_gpu(layer, precision):
    """A layer runs where its tensors lie, whichever device is current, and leaves that as it was."""
    if torch.cuda.device_count() < 2:
        pytest.skip("a single GPU")
    precision.switch()
    draw = Draw.of(case_of(kernel_of(layer), 64, 20, 8, bidirectional=True), precision.dtype)
    results = []
    for index in range(2):
        module, args, kwargs = draw.arguments(precision, torch.device("cuda", index))
        results.append(results_of(module, args, kwargs))
        assert torch.cuda.current_device() == 0
        assert {row.device for row in fastrnn.explain(module, *args, **kwargs).rows} == {f"cuda:{index}"}
    close([result.cpu() for result in results[1]], [result.cpu() for result in results[0]], precision.eps)
