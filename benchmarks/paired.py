"""Timing two implementations against each other: in turns in one process, the ratio pair by pair.

These ratios hold on a machine whose speed drifts, where times taken minutes apart do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# Of untimed calls after a pause: threads wake, and caches fill.
WARM_UP_SECONDS = 0.01
# Longer than idle threads spin for more work before they sleep: ONNX Runtime's, a million pauses of 140 cycles, are the
# most patient, before libgomp's.
SETTLE_SECONDS = 0.06


@dataclass(frozen=True)
class Paired:
    """What :func:`compare` measured; ratio is the other's time over ours, so above 1 we are faster."""

    ours: float  # median seconds
    other: float
    ratio: float  # median of the pairs' ratios
    low: float  # their quartiles
    high: float
    pairs: int


def compare(
    ours: Callable[[], object],
    other: Callable[[], object],
    seconds: float = 1.0,
    least: int = 20,
    settle: float = 0.0,
    timed: Callable[[Callable[[], object]], float] | None = None,
) -> Paired:
    """Run both in turns for about `seconds`, at least `least` times each (never under 2); who goes first alternates.

    `timed` calls a function and gives the seconds it took; by default, as the clock on the wall says.

    `settle` is for two that keep different threads, which may spin on after a call and take the cores from the other:
    before each timed call comes a pause of that many seconds, and an untimed call or a few. Calls in place of the pause
    would share the cores with what spins, which then goes on for longer.
    """
    timed = timed or wall_seconds
    for warm_up in (ours, other, ours, other):
        warm_up()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        if len(times) % 2:
            b, a = _settled(timed, other, settle), _settled(timed, ours, settle)
        else:
            a, b = _settled(timed, ours, settle), _settled(timed, other, settle)
        times.append((a, b))
    low, ratio, high = statistics.quantiles([b / a for a, b in times], n=4, method="inclusive")
    return Paired(
        statistics.median(a for a, _ in times), statistics.median(b for _, b in times), ratio, low, high, len(times)
    )


def wall_seconds(function: Callable[[], object]) -> float:
    """What a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _settled(timed: Callable[[Callable[[], object]], float], function: Callable[[], object], settle: float) -> float:
    if settle:
        time.sleep(settle)
        end = time.perf_counter() + WARM_UP_SECONDS
        while time.perf_counter() < end:
            function()
    return timed(function)
