"""What char_rnn.py shows at the end: a table, the checks of a full run, and a picture."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from pictures import plt

# What a full run must show.
FULL_RUN_STEPS = 800
EARLY_STEPS, EARLY_TOLERANCE = 200, 1e-4  # each loss, relative
LATE_STEPS, LATE_TOLERANCE = 50, 1e-3  # the mean of the last losses, relative
HELD_OUT_NATS = 1.9

COLORS = {"torch": "tab:gray", "fastrnn": "tab:orange"}


@dataclass
class Result:
    """What became of one implementation."""

    name: str
    losses: list[float]  # of each step, nats a character
    seconds: list[float]  # of each step
    held_out: float  # nats a character
    characters: int  # a step

    @property
    def speed(self) -> float:
        """Characters a second, in the median step."""
        return self.characters / statistics.median(self.seconds)

    @property
    def late(self) -> float:
        """The mean of the last losses."""
        return statistics.mean(self.losses[-LATE_STEPS:])


def times_as_fast(results: dict[str, Result]) -> float:
    """How many times as fast fastrnn is: the median over pairs of steps, since the drift of a machine hits both alike.

    Where both ran no speed stands beside it: two speeds have a quotient of their own.
    """
    pairs = zip(results["torch"].seconds, results["fastrnn"].seconds, strict=True)
    return statistics.median(torch_seconds / our_seconds for torch_seconds, our_seconds in pairs)


def print_table(results: dict[str, Result]) -> None:
    """Losses and speed, a column for each implementation, and how the speeds compare."""
    rows = {
        "": [result.name for result in results.values()],
        "loss, first step": [f"{result.losses[0]:.4f}" for result in results.values()],
        f"loss, mean of last {LATE_STEPS}": [f"{result.late:.4f}" for result in results.values()],
        "loss, held out": [f"{result.held_out:.4f}" for result in results.values()],
    }
    if len(results) == 1:
        rows["characters per second"] = [f"{result.speed:,.0f}" for result in results.values()]
    print()
    for title, cells in rows.items():
        print(f"{title:24}" + "".join(f"{cell:>14}" for cell in cells))
    if len(results) == 2:
        steps = len(results["torch"].seconds)
        print(f"{'speed, fastrnn / torch':24}{times_as_fast(results):>13.2f}x  (median of {steps} pairs of steps)")


def checks(results: dict[str, Result]) -> list[tuple[bool, str]]:
    """What a full run must show: whether it does, and in what figure."""
    steps = min(len(result.losses) for result in results.values())
    found = [(steps >= FULL_RUN_STEPS, f"steps: {steps} (at least {FULL_RUN_STEPS})")]
    for result in results.values():
        line = f"held-out loss of {result.name}: {result.held_out:.4f} nats a character (below {HELD_OUT_NATS})"
        found.append((result.held_out < HELD_OUT_NATS, line))
    if len(results) == 2:
        a, b = results.values()
        pairs = zip(a.losses[:EARLY_STEPS], b.losses[:EARLY_STEPS], strict=True)
        early = max(abs(x - y) / abs(x) for x, y in pairs)
        late = abs(a.late - b.late) / a.late
        line = f"losses of the first {EARLY_STEPS} steps: {early:.1e} apart at most (relative, up to {EARLY_TOLERANCE})"
        found.append((early <= EARLY_TOLERANCE, line))
        line = f"mean loss of the last {LATE_STEPS} steps: {late:.1e} apart (relative, up to {LATE_TOLERANCE})"
        found.append((late <= LATE_TOLERANCE, line))
    return found


def print_checks(results: dict[str, Result]) -> bool:
    """Print every check; False if one failed. A run too short to be judged passes."""
    found = checks(results)
    judged = found[0][0]
    for passed, line in found:
        print(f"{('ok' if passed else 'FAILED') if judged else 'not judged':12}{line}")
    failures = sum(not passed for passed, _ in found) if judged else 0
    if failures:
        print(f"char_rnn: {failures} of {len(found)} checks FAILED: see above", file=sys.stderr)
    return not failures


def draw(path: Path, results: dict[str, Result]) -> None:
    """Loss curves, and where two ran how their speeds compare, as a PNG."""
    two = len(results) == 2
    figure, axes = plt.subplots(
        1, 1 + two, figsize=(11, 4.5), width_ratios=(3, 1)[: 1 + two], layout="constrained", squeeze=False
    )
    curves = axes[0, 0]
    for width, (impl, result) in zip((3, 1), results.items(), strict=False):  # the second is seen upon the first
        label = f"{result.name} (held out: {result.held_out:.3f})"
        curves.plot(result.losses, label=label, color=COLORS[impl], linewidth=width)
    curves.set(title="Training loss", xlabel="step", ylabel="nats a character")
    curves.legend()
    if two:
        speeds = {"torch": 1.0, "fastrnn": times_as_fast(results)}
        names = [results[impl].name for impl in speeds]
        bar = axes[0, 1].bar(names, list(speeds.values()), color=[COLORS[impl] for impl in speeds])
        axes[0, 1].bar_label(bar, fmt="%.2fx")
        axes[0, 1].set(title="Speed", ylabel="times as fast, median of pairs of steps")
    figure.savefig(path, dpi=120)
    plt.close(figure)
