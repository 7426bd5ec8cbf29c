"""What the benchmarks measured, as CSV: a line for each measured row. The columns are in README.md."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paired import Paired
from workloads import Case

# Of a figure: as many as the clock of a call has that takes a second, so that no table changes by being read.
DIGITS = 9

# A line as it is read.
Line = Mapping[str, str]


def pair_columns(pair: Paired) -> dict[str, float]:
    """A comparison's columns; :func:`pair_of` reads them."""
    return {
        "seconds": pair.ours,
        "other_seconds": pair.other,
        "ratio": pair.ratio,
        "ratio_low": pair.low,
        "ratio_high": pair.high,
        "pairs": pair.pairs,
    }


def pair_of(line: Line) -> Paired:
    seconds, other, *ratios = (
        float(line[name]) for name in ("seconds", "other_seconds", "ratio", "ratio_low", "ratio_high")
    )
    return Paired(seconds, other, *ratios, int(line["pairs"]))


def case_of(line: Line) -> Case:
    """The shape, of the columns that asdict(case) gives."""
    return Case(*(int(line[name]) for name in asdict(Case(0, 0, 0, 0))))


def write(path: Path, facts: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows, and the machine's facts behind each, and say where they are."""
    lines = [{name: _text(value) for name, value in {**row, **facts}.items()} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]) if lines else list(facts), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    print(f"wrote {path}")


def read(path: Path) -> Sequence[Line]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
