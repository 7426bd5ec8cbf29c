"""What suite.py measured, as tables; plots.py draws it.

.venv/bin/python benchmarks/suite_report.py benchmarks/results/suite_epyc.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import machine
import results
from paired import Paired
from report import Table, mean, milliseconds, percent, times_as_fast
from workloads import Case


@dataclass
class Row:
    """What was measured of one layer, mode, shape and number of threads."""

    cell: str
    mode: str
    case: Case
    threads: int
    floor: float | None = None  # seconds; None where it could not be measured
    pairs: dict[str, Paired] = field(default_factory=dict)  # by the peer's name
    versions: dict[str, str] = field(default_factory=dict)  # of the same peers
    left_out: dict[str, str] = field(default_factory=dict)  # by the name of a peer without a pair: why

    @property
    def seconds(self) -> float:
        """Our own time, as measured beside torch.nn, or else beside whichever peer was there."""
        return self.pairs.get("torch", next(iter(self.pairs.values()))).ours

    @property
    def best_peer(self) -> str:
        """The one that comes out best against us."""
        return min(self.pairs, key=lambda peer: self.pairs[peer].ratio)

    @property
    def of_floor(self) -> float | None:
        """The floor as a share of our time: at 1 there is nothing left to gain."""
        return self.floor and self.floor / self.seconds


Rows = Sequence[Row]


def line(row: Row) -> str:
    """A row as it is printed when it is done."""
    ours = f"{milliseconds(row.seconds)} ms" if row.pairs else ""
    ratios = "  ".join(f"{name} {times_as_fast(pair)}" for name, pair in row.pairs.items())
    reasons = "".join(f"  [{name}: {reason}]" for name, reason in row.left_out.items())
    return f"{row.cell:4} {row.mode:9} {row.case!s:16} {row.threads} thr.  {ours:>8}  {ratios}{reasons}"


def lines(rows: Rows) -> Iterator[dict[str, Any]]:
    """The rows as results.py writes them: a line for each peer."""
    for row in rows:
        for peer, pair in row.pairs.items():
            what = {"cell": row.cell, "mode": row.mode, **asdict(row.case), "threads": row.threads}
            against = {"peer": peer, "peer_version": row.versions[peer], **results.pair_columns(pair)}
            yield {**what, **against, "floor_seconds": row.floor}


def rows_of(lines: Iterable[results.Line]) -> list[Row]:
    """The rows of what :func:`lines` gave."""
    rows: dict[tuple[object, ...], Row] = {}
    for line in lines:
        key = line["cell"], line["mode"], results.case_of(line), int(line["threads"])
        row = rows.setdefault(key, Row(*key, floor=float(line["floor_seconds"]) if line["floor_seconds"] else None))
        row.pairs[line["peer"]] = results.pair_of(line)
        row.versions[line["peer"]] = line["peer_version"]
    return list(rows.values())


def measured(file: Path, threads: Sequence[int] | None) -> list[results.Line]:
    """The lines of these numbers of threads, or all."""
    return [line for line in results.read(file) if threads is None or int(line["threads"]) in threads]


def tables(rows: Rows) -> list[Table]:
    """A table for each number of threads, layer and mode, then the summary."""
    rows = [row for row in rows if row.pairs]
    return [*map(_details, groups(rows)), _summary(rows)]


def groups(rows: Rows) -> Iterator[Rows]:
    for _, group in groupby(rows, key=lambda row: (row.threads, row.cell, row.mode)):
        yield list(group)


def peers(rows: Rows) -> list[str]:
    """Those that were measured, in the order of the measurement."""
    return list(dict.fromkeys(peer for row in rows for peer in row.pairs))


def _details(rows: Rows) -> Table:
    names = peers(rows)
    title = f"{rows[0].cell} {rows[0].mode}, {threads_of(rows[0])}: times as fast as each peer (quartiles)"
    table = Table(title, ["T,B,I,H", "ms", *names, "of the floor"])
    for row in rows:
        ratios = (times_as_fast(row.pairs[peer]) if peer in row.pairs else "-" for peer in names)
        table.rows.append([str(row.case), milliseconds(row.seconds), *ratios, percent(row.of_floor)])
    return table


def _summary(rows: Rows) -> Table:
    table = Table(
        "Times as fast as torch.nn, and as the best peer of each case: geometric means, and the slowest case",
        ["layer", "mode", "threads", "cases", "torch.nn", "slowest case", "best peer", "slowest case", "of the floor"],
    )
    for group in groups(rows):
        first = group[0]
        against_torch = [(row, "torch") for row in group if "torch" in row.pairs]
        against_best = [(row, row.best_peer) for row in group]
        shares = [row.of_floor for row in group if row.of_floor]
        table.rows.append(
            [
                *(first.cell, first.mode, str(first.threads), str(len(group))),
                *_mean_and_slowest(against_torch),
                *_mean_and_slowest(against_best),
                percent(mean(shares)),
            ]
        )
    return table


def _mean_and_slowest(compared: list[tuple[Row, str]]) -> tuple[str, str]:
    """Of rows, each with the peer to look at."""
    if not compared:
        return "-", "-"
    ratios = [row.pairs[peer].ratio for row, peer in compared]
    slowest, (row, peer) = min(zip(ratios, compared, strict=True), key=lambda pair: pair[0])
    return f"{mean(ratios):.2f}", f"{slowest:.2f} {peer} {row.case}"


def threads_of(row: Row) -> str:
    return "1 thread" if row.threads == 1 else f"{row.threads} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what suite.py --csv wrote")
    parser.add_argument("--threads", type=int, nargs="+", help="the counts to look at (default: all)")
    args = parser.parse_args()
    found = measured(args.file, args.threads)
    rows = rows_of(found)
    print(*dict.fromkeys(map(machine.describe, found)), sep="\n")
    print("Peers:", "; ".join(dict.fromkeys(line["peer_version"] for line in found)))
    for table in tables(rows):
        table.show()


if __name__ == "__main__":
    main()
