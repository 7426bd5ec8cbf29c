"""Threads of Python, threads of torch, and other processes: the same results, and nobody waits who need not."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import process_worker as worker
import pytest
import torch
import torch.multiprocessing
from cases import LAYERS
from torch.utils.data import DataLoader

import fastrnn

pytestmark = pytest.mark.thorough

by_layer = pytest.mark.parametrize("layer", LAYERS)


def assert_same_bits(actual, expected):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert torch.equal(ours, theirs)


@by_layer
@pytest.mark.parametrize("shared", (False, True), ids=("own module", "shared module"))
def test_eight_threads_at_once(layer, threads, shared):
    """Each thread's outputs and gradients have the bits they have when it is alone."""
    jobs = [worker.build(layer, seed) for seed in range(8)]
    if shared:
        jobs = [(jobs[0][0], value) for _, value in jobs]
    torch.set_num_threads(threads)
    expected = [worker.outputs_and_grads(*job) for job in jobs]
    start = threading.Barrier(len(jobs))

    def run(job):
        # A thread has torch's thread count from its first call of it on.
        assert torch.get_num_threads() == threads
        start.wait()
        return [worker.outputs_and_grads(*job) for _ in range(3)]

    with ThreadPoolExecutor(len(jobs)) as pool:
        for results, theirs in zip(pool.map(run, jobs), expected, strict=True):
            for actual in results:
                assert_same_bits(actual, theirs)


THREADS_OF_A_SMALL_CALL = """
import os, torch, fastrnn
torch.set_num_threads(2)
layer, value = fastrnn.LSTM(64, 64), torch.randn(32, 1, 64, requires_grad=True)
before = len(os.listdir("/proc/self/task"))
output, _ = layer(value)
output.sum().backward()
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no list of threads")
def test_a_small_call_wakes_no_other_thread():
    """Whose time slice it would have to wait for on a busy machine."""
    command = [sys.executable, "-c", THREADS_OF_A_SMALL_CALL]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    assert done.stdout == "0\n"


THREADS_ON_SOME_CORES = """
import os, sys, torch, fastrnn
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[1])])
torch.set_num_threads(16)
layer, value = fastrnn.GRU(256, 256), torch.randn(50, 1, 256)
rows = fastrnn.explain(layer, value).rows
print({row.threads for row in rows}, {row.reason for row in rows})
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize("cores", (1, 2))
def test_no_team_is_larger_than_the_cores_it_may_run_on(cores):
    """16 threads on two cores were 8 times as slow as two."""
    if cores > len(os.sched_getaffinity(0)):
        pytest.skip("this machine has one core")
    done = subprocess.run(
        [sys.executable, "-c", THREADS_ON_SOME_CORES, str(cores)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{{{cores}}}")
    assert ("one core alone" in done.stdout) == (cores == 1)


@pytest.mark.parametrize("threads_set", (1, 2))
def test_a_new_thread_keeps_to_the_thread_count(threads_set):
    """The kernels ask how many threads they may use: in a Python thread that never asked torch, too."""
    torch.set_num_threads(threads_set)
    module, value = worker.build()
    counts = []
    thread = threading.Thread(target=lambda: counts.append(fastrnn.explain(module, value).rows[0].threads))
    thread.start()
    thread.join()
    assert counts == [threads_set]


@by_layer
@pytest.mark.parametrize("backward", (False, True), ids=("forward", "backward"))
def test_other_python_threads_go_on_during_a_call(layer, backward):
    """The interpreter's lock is free while a kernel runs: within one call another thread gets it many times.

    A call that kept the lock would let the thread in at its ends alone, however long it took; so the call is made
    longer until the thread got in, and how fast the machine is does not matter.
    """
    module = getattr(fastrnn, layer)(4, 64)
    steps, during = 12_000, 0
    while during < 10 and steps <= 1_000_000:
        during = ticks_during_a_call(module, torch.randn(steps, 4, 4), backward)
        steps *= 3
    assert during >= 10


def ticks_during_a_call(module, value, backward):
    """How often another thread, which asks a thousand times a second, gets the interpreter's lock in one call."""
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    with torch.set_grad_enabled(backward):
        loss = module(value)[0].sum() if backward else None
        thread = threading.Thread(target=tick)
        thread.start()
        try:
            begin = time.perf_counter()
            loss.backward() if backward else module(value)
            end = time.perf_counter()
        finally:
            stop.set()
            thread.join()
    return sum(begin < at < end for at in ticks)


@by_layer
def test_thread_count_changed_midway(layer):
    """The plan follows; at one count all bits stay; what the time loop computes has the same bits at every count.

    With an input of zeros torch's product before the loop, which may add in another order at another count, is zero.
    """
    module, value = worker.build(layer)
    value = torch.zeros_like(value)
    states = [torch.randn(1, 16, 96, requires_grad=True) for _ in range(2)]
    hx = tuple(states) if layer == "LSTM" else states[0]
    states = states if layer == "LSTM" else states[:1]

    def run():
        output, _ = module(value, hx)
        grads = torch.autograd.grad(output.pow(2).sum(), [*states, *module.parameters()])
        return [output.detach(), *grads[: len(states)]], grads[len(states) :]

    seen = {}
    for count in (2, 1, 3, 2, 1, 3):
        torch.set_num_threads(count)
        rows = fastrnn.explain(module, value, hx).rows
        assert [row.threads for row in rows] == [count, count]
        loop, products = run()
        assert_same_bits(loop, seen.setdefault("loop", loop))
        assert_same_bits(products, seen.setdefault(count, products))
        torch.testing.assert_close(products, seen[2])


def wait_for(pid, seconds=30):
    """The child's exit code; a child that hangs is killed and fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail(f"the child hung for {seconds} s")


@by_layer
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_use(layer):
    """A child has none of its parent's threads: like torch's own ops it must be told to work alone, and then does.

    A child that does not call set_num_threads(1) waits for the lost threads for ever, in torch as here.
    """
    module, value = worker.build(layer)
    expected = worker.outputs_and_grads(module, value)
    torch.set_num_threads(2)
    worker.outputs_and_grads(module, value)
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            same = all(map(torch.equal, worker.outputs_and_grads(module, value), expected))
            os._exit(0 if same else 3)
        finally:
            os._exit(4)
    assert wait_for(pid) == 0
    # The parent's team is none the worse.
    assert len(worker.outputs_and_grads(module, value)) == len(expected)


@pytest.mark.parametrize("context", ("fork", "spawn"))
def test_data_loader_workers(context):
    """A model in the dataset, computing in the workers, after the parent has used it on two threads."""
    torch.set_num_threads(2)
    module, value = worker.build()
    module(value)
    torch.set_num_threads(1)
    values = torch.randn(6, 40, 2, 16)
    expected = [module(each)[0][-1].detach() for each in values]
    torch.set_num_threads(2)
    loader = DataLoader(
        worker.Features(module, values), batch_size=None, num_workers=2, multiprocessing_context=context, timeout=60
    )
    assert_same_bits(list(loader), expected)


def test_spawn_with_a_pickled_module(tmp_path):
    """A spawned process computes the same bits, and a module with shared memory is one module to both."""
    module, value = worker.build()
    expected = worker.outputs_and_grads(module, value)
    module.share_memory()
    process = torch.multiprocessing.get_context("spawn").Process(
        target=worker.run_pickled, args=(module, value, str(tmp_path / "results.pt"))
    )
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        pytest.fail("the process hung")
    assert process.exitcode == 0
    assert_same_bits(torch.load(tmp_path / "results.pt"), expected)
    assert (module.bias_ih_l0 == 0.25).all()
