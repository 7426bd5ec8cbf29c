"""What ``fastrnn.explain`` answers: rows for programs, a page of at most 100 columns for people."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

WIDTH = 100


@dataclass(frozen=True)
class Row:
    """One pass of one direction of one layer."""

    layer: int
    direction: str  # "forward" or "reverse"
    pass_: str  # "forward" or "backward"
    device: str
    path: str  # the kernel's way through the sequence; "none" if the pass would not run
    isa: str
    tile: str
    weights: str  # how the CPU reads the recurrent ones: "packed" first, "in place", "packed ahead" by pack_weights()
    input_product: str  # when the CPU multiplies a layer's input by w_ih: "ahead" of the time loop, or "in the loop"
    gemms: str  # what multiplies large matrices on the CPU: our "panels" (or "rows", "plain loop"), or "torch.mm"
    threads: int  # of the CPU that run this direction, or of each block on a GPU
    precision: str
    reserve_bytes: int  # kept from forward for backward, by this direction; 0 if no gradient is recorded
    reason: str  # why not a faster path, and what keeps pack_weights() from serving the module

    def verdict(self) -> str:
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ""
        if threads and self.device.startswith("cuda"):
            threads += " a block"
        return f"{self.path}{threads} ({self.reason})" if self.reason else f"{self.path}{threads}"


@dataclass(frozen=True)
class _Group:
    """Rows of one pass that differ in nothing but layer, direction and the size of the reserve."""

    rows: Sequence[Row]

    @property
    def layers(self) -> str:
        return _ranges(sorted({row.layer for row in self.rows}))

    @property
    def directions(self) -> str:
        found = dict.fromkeys(row.direction for row in self.rows)
        return "both" if len(found) > 1 else next(iter(found))

    @property
    def reserve_bytes(self) -> int:
        return sum(row.reserve_bytes for row in self.rows)

    def cells(self) -> list[str]:
        row = self.rows[0]
        products = ": ".join(filter(None, (row.input_product, row.gemms)))
        threads = str(row.threads) if row.threads else ""
        kept = _size(self.reserve_bytes) if self.reserve_bytes else ""
        where = self.layers, self.directions, row.pass_
        return [cell or "-" for cell in (*where, row.path, threads, row.weights, products, kept)]


_TITLES = ["layer", "direction", "pass", "path", "threads", "weights", "products", "reserve"]


@dataclass(frozen=True)
class Explanation:
    """What :func:`explain` found: ``rows`` to look at, ``str()`` to read.

    The first lines say how the passes run, and why; then come what holds for all of them, and a table in which rows
    that differ in nothing but their place are one. Its words:

    path
        "fused": one kernel for the sequence on the CPU. "streamed", "persistent", "cluster": the three ways of a GPU.
        "with extras": the kernel that also knows resets, zoneout and other options. "formula": torch ops, step by
        step, which is slow. "none": the pass would not run.
    tile
        The rows (of the batch) and columns (of hidden units' gates) that are multiplied at a time in registers.
    threads
        That run one direction of one layer; on a GPU, of a block.
    weights
        How the recurrent weights are read: "in place", "packed" in the order that the kernel reads them, which each
        call does anew, or "packed ahead", by ``pack_weights()``.
    products
        Forward, when the input is multiplied by ``w_ih``: "in the loop" over time, or "ahead" of it, and by what.
        Backward, what multiplies the large matrices: "panels" is our own code, the others are libraries of torch's.
    reserve
        Memory kept from forward for backward, of all layers and directions of the row.

    ``rows`` holds the same for programs: a row for each layer, direction and pass, sizes in bytes.
    """

    rows: tuple[Row, ...]

    def __str__(self) -> str:
        groups = _merged(self.rows)
        verdicts = [line for what in _verdicts(groups) for line in textwrap.wrap(what, WIDTH, subsequent_indent="  ")]
        table = [group.cells() for group in groups if group.rows[0].path != "none"]
        if not table:
            return "\n".join(verdicts)
        facts = textwrap.wrap(self._facts(), WIDTH, subsequent_indent="  ")
        return "\n".join([*verdicts, *facts, "", *_aligned([_TITLES, *table])])

    def _facts(self) -> str:
        """What is seldom different from row to row."""
        run = [row for row in self.rows if row.path != "none"]
        tiles = " and ".join(_distinct(row.tile for row in run))
        precision = " and ".join(_distinct(row.precision for row in run))
        kept = sum(row.reserve_bytes for row in run if row.pass_ == "forward")
        return ", ".join(
            [
                *_distinct(row.device for row in run),
                *_distinct(row.isa for row in run),
                *([f"tile{'s' * (' and ' in tiles)} of {tiles}"] if tiles else []),
                precision,
                *([f"{_size(kept)} kept from forward for backward"] if kept else []),
            ]
        )


def _merged(rows: Iterable[Row]) -> list[_Group]:
    groups: dict[Row, list[Row]] = {}
    for row in rows:
        groups.setdefault(replace(row, layer=0, direction="", reserve_bytes=0), []).append(row)
    return [_Group(members) for members in groups.values()]


def _verdicts(groups: Sequence[_Group]) -> list[str]:
    """How the passes run, and why; where that differs, of which each line tells."""
    by_verdict: dict[str, list[_Group]] = {}
    for group in groups:
        by_verdict.setdefault(group.rows[0].verdict(), []).append(group)
    if len(by_verdict) < 2:
        return list(by_verdict)
    several_layers = len({group.layers for group in groups}) > 1
    lines = []
    for verdict, members in by_verdict.items():
        passes = " and ".join(_distinct(group.rows[0].pass_ for group in members))
        where = [f"layer {_ranges(sorted({row.layer for group in members for row in group.rows}))}"] * several_layers
        lines.append(f"{', '.join([*where, passes])}: {verdict}")
    return lines


def _ranges(numbers: Sequence[int]) -> str:
    """0-2, 4 for 0, 1, 2, 4."""
    stretches = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in stretches)


def _distinct(words: Iterable[str]) -> list[str]:
    return [word for word in dict.fromkeys(words) if word]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:  # 1e+03 to three digits from there on
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
