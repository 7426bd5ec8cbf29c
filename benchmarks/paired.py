"""Timing two implementations against each other: in turns in one process, the ratio pair by pair.

These ratios hold on a machine whose speed drifts, where times taken minutes apart do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Paired:
    """What :func:`compare` measured; ratio is the other's time over ours, so above 1 we are faster."""

    ours: float  # median seconds
    other: float
    ratio: float  # median of the pairs' ratios
    low: float  # their quartiles
    high: float
    pairs: int


def compare(ours: Callable[[], object], other: Callable[[], object], seconds: float = 1.0, least: int = 20) -> Paired:
    """Run both in turns for about `seconds`, at least `least` times each; who goes first alternates."""
    for warm_up in (ours, other, ours, other):
        warm_up()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        if len(times) % 2:
            b, a = _time(other), _time(ours)
        else:
            a, b = _time(ours), _time(other)
        times.append((a, b))
    low, ratio, high = statistics.quantiles([b / a for a, b in times], n=4)
    return Paired(
        statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio, low, high, len(times)
    )


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
