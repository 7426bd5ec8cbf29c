"""The same bits on every run, on every stream and device; and a host that never waits for the GPU."""

from contextlib import contextmanager

import pytest
import torch
from cases import KERNELS, LAYERS
from machine import needs_gpu, run_script
from measure import LENGTHS, Draw, case_of, close, kernel_of, results_of
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


# Persistent kernels whose blocks nearly fill an H200 each, so that two cannot run at once; with matrix products between
# them for company. Blocks of one that wait for blocks which the other keeps out would wait for ever.
CROWDED = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    import torch, fastrnn

    how, layer = sys.argv[1:]
    torch.manual_seed(0)
    half = dict(dtype=torch.bfloat16, device="cuda")
    modules = [getattr(fastrnn, layer)(128, 1024, **half) for _ in range(2)]
    values = [torch.randn(60, 64, 128, requires_grad=True, **half) for _ in modules]
    factor = torch.randn(8192, 8192, **half)
    for module, value in zip(modules, values):
        rows = fastrnn.explain(module, value).rows
        if {row.path for row in rows} != {"persistent"}:
            print("streamed:", rows[0].reason)
            sys.exit(0 if torch.cuda.get_device_capability() < (9, 0) else "should be persistent")

    def run(index):
        output = modules[index](values[index])[0]
        return [output, *torch.autograd.grad(output.float().sum(), [values[index], *modules[index].parameters()])]

    expected = [run(index) for index in range(2)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(3)]

    def on_stream(index):
        with torch.cuda.stream(streams[index]):
            return run(index)

    for index in range(2):
        on_stream(index)  # cuBLAS has now what it wants for each stream
    with torch.cuda.stream(streams[2]):
        factor @ factor

    def check(results):
        torch.cuda.synchronize()
        for actual, right in zip(results, expected):
            assert all(map(torch.equal, actual, right)), "another result beside another kernel"

    if how == "streams":
        for _ in range(20):
            with torch.cuda.stream(streams[2]):
                factor @ factor
            check([on_stream(0), on_stream(1)])
    elif how == "threads":
        with ThreadPoolExecutor(2) as pool:
            for _ in range(20):
                check(list(pool.map(on_stream, range(2))))
    else:  # branches of one graph
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for stream in streams:
                stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(streams[2]):
                factor @ factor
            results = [on_stream(0), on_stream(1)]
            for stream in streams:
                torch.cuda.current_stream().wait_stream(stream)
        for _ in range(20):
            graph.replay()
            check(results)
"""


@needs_gpu
@by_layer
@pytest.mark.parametrize("how", ("streams", "threads", "graph"))
def test_two_persistent_kernels_at_once(layer, how):
    run_script(CROWDED, how, layer, timeout=90)


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
