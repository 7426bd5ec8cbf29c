"""The least time a case could take on this machine: the floor under its figures.

A layer must do the input's product and, step after step, the recurrent product, which reads all of W_hh; backward has
each of these again, and the products for the weights' gradients. A product of a kind and width cannot run faster than
the fastest code for it does with many rows (products.py), W_hh cannot be read faster than a plain loop reads as many
bytes over and over, and threads that divide the hidden units must meet at every step. All three are measured here. What
is left out (activations, the input, output and reserve in memory, the call itself) makes a floor too low, never too
high.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from functools import cached_property

import torch
from compiled import compiled
from products import KINDS, best_rate
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
        self.fastest: Counter[tuple[str, str]] = Counter()  # which code it was, by kind of product
        self._read: dict[tuple[int, int], float] = {}

    def product_rate(self, kind: str, inputs: int, gates: int, threads: int) -> float:
        """Multiply-adds a second of the fastest code for a product of that kind and width."""
        rate, name = best_rate(kind, inputs, gates, threads)
        torch.set_num_threads(self.threads)
        self.fastest[kind, name] += 1
        return rate

    def fastest_codes(self) -> str:
        """Which code was the fastest, how often, by kind of product."""
        return ", ".join(f"{kind} {name} {count}x" for (kind, name), count in sorted(self.fastest.items()))

    def step_rate(self, gates: int, hidden: int, threads: int) -> float:
        """The best of all that was measured: a step's product may be computed by any code, in any order."""
        return max(self.product_rate(kind, hidden, gates, threads) for kind in KINDS)

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
        gates, hidden = GATES[cell] * case.hidden_size, case.hidden_size
        at_once = [("gates", case.input_size)]
        if mode == "training":
            at_once += [("dX", case.input_size), ("dW", case.input_size), ("dW", hidden)]
        rows = case.steps * case.batch
        products = sum(
            rows * inputs * gates / self.product_rate(kind, inputs, gates, self.threads) for kind, inputs in at_once
        )
        walks = 2 if mode == "training" else 1
        weights = gates * hidden * FLOAT_BYTES
        macs = case.step_macs(cell)
        ways = [max(macs / self.step_rate(gates, hidden, 1), self.reading(weights, 1))]
        if self.threads > 1:
            compute = macs / self.step_rate(gates, hidden, self.threads)
            ways.append(max(compute, self.reading(weights // self.threads, self.threads)) + self.meeting)
            if case.batch >= self.threads:
                ways.append(max(compute, self.reading(weights, self.threads)))
        return products + walks * case.steps * min(ways)


def _probe() -> ctypes.CDLL:
    """probe.cpp and its functions' types."""
    probe = compiled("probe.cpp")
    probe.probe_read.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int)
    probe.probe_meet.argtypes = (ctypes.c_int64, ctypes.c_int)
    probe.probe_read.restype = probe.probe_meet.restype = ctypes.c_double
    return probe
