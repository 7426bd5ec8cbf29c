"""The least time a case could take on this machine: the floor under its figures.

A layer must do the input's product and, step after step, the recurrent product, which reads all of W_hh; backward has
each of these again, and the products for the weights' gradients. Products cannot run faster than torch.mm on large
matrices, W_hh cannot be read faster than a plain loop reads as many bytes over and over, and threads that divide the
hidden units must meet at every step. All three are measured here. What is left out (activations, the input, output and
reserve in memory, the call itself) makes a floor too low, never too high.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from unavailable import UnavailableError
from workloads import GATES, Case

FLOAT_BYTES = 4
# Each figure is the best of this many, for what disturbs a measurement only ever slows it.
TRIES = 5


class Machine:
    """The rates of this machine at one number of threads, each measured when first asked for. UnavailableError without
    a compiler."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._probe = _probe()
        self._products: dict[int, float] = {}
        self._read: dict[tuple[int, int], float] = {}

    def product_rate(self, threads: int) -> float:
        """Multiply-adds a second of torch.mm in f32, at the better of two sizes."""
        if threads not in self._products:
            torch.set_num_threads(threads)
            self._products[threads] = max(size**3 / _best_product(size) for size in (1024, 2048))
            torch.set_num_threads(self.threads)
        return self._products[threads]

    @cached_property
    def meeting(self) -> float:
        """Seconds for all threads to meet once."""
        return min(self._probe.probe_meet(20_000, self.threads) for _ in range(TRIES))

    def reading(self, bytes: int, threads: int) -> float:
        """Seconds in which each of the threads reads `bytes` of its own, which it has read just before."""
        if (bytes, threads) not in self._read:
            passes = max(2, 2**26 // bytes)
            self._read[bytes, threads] = min(self._probe.probe_read(bytes, passes, threads) for _ in range(TRIES))
        return self._read[bytes, threads]

    def floor(self, cell: str, case: Case, mode: str) -> float:
        """The least seconds of a call, by the best of three ways to run a step: one thread for all of it, each thread
        its own part of the batch, or each its own hidden units."""
        # Backward walks the steps one by one as well; the weights' gradients are products over all steps at once.
        walks = 2 if mode == "training" else 1
        one_by_one = walks * case.steps
        at_once = case.work(cell, mode) - one_by_one * case.step_macs(cell)
        weights = GATES[cell] * case.hidden_size**2 * FLOAT_BYTES
        ways = [max(case.step_macs(cell) / self.product_rate(1), self.reading(weights, 1))]
        if self.threads > 1:
            compute = case.step_macs(cell) / self.product_rate(self.threads)
            ways.append(max(compute, self.reading(weights // self.threads, self.threads)) + self.meeting)
            if case.batch >= self.threads:
                ways.append(max(compute, self.reading(weights, self.threads)))
        return at_once / self.product_rate(self.threads) + one_by_one * min(ways)


def _best_product(size: int) -> float:
    """Seconds of one product of two size x size matrices."""
    a, b, product = torch.randn(size, size), torch.randn(size, size), torch.empty(size, size)
    best = float("inf")
    for _ in range(2 * TRIES):
        start = time.perf_counter()
        torch.mm(a, b, out=product)
        best = min(best, time.perf_counter() - start)
    return best


@lru_cache(maxsize=1)
def _probe() -> ctypes.CDLL:
    """probe.cpp, compiled for this processor, or for the instruction set that machine.py holds us to."""
    isa = os.environ.get("FASTRNN_ISA")
    flags = ["-mavx2", "-mfma"] if isa == "avx2" else ["-march=native"]
    source = Path(__file__).with_name("probe.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "probe.so"
        command = [*os.environ.get("CXX", "g++").split(), "-std=c++20", "-O3", *flags, "-Wno-psabi", "-pthread"]
        try:
            subprocess.run([*command, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UnavailableError(f"probe.cpp does not compile: {error}") from error
        probe = ctypes.CDLL(str(library))
    probe.probe_read.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    probe.probe_meet.argtypes = (ctypes.c_int64, ctypes.c_int)
    probe.probe_read.restype = probe.probe_meet.restype = ctypes.c_double
    return probe
