"""Results as tables, for a terminal and for Markdown."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from paired import Paired


@dataclass
class Table:
    title: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)

    def show(self) -> None:
        """Print it, with rich where that is installed."""
        try:
            from rich.console import Console
            from rich.table import Table as RichTable
        except ImportError:
            print(f"\n{self.plain()}", flush=True)
            return
        table = RichTable(title=self.title, title_justify="left")
        for column, name in enumerate(self.header):
            table.add_column(name, justify="right" if column else "left")
        for row in self.rows:
            table.add_row(*row)
        # A file is as wide as it needs to be.
        Console(width=None if sys.stdout.isatty() else 200).print(table)

    def plain(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        return "\n".join([self.title, *("  ".join(map(str.rjust, line, widths)) for line in lines)])

    def markdown(self) -> str:
        return f"**{self.title}**\n\n{markdown_table(self.header, self.rows)}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join("| " + " | ".join(line) + " |\n" for line in (header, rule, *rows))


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def times_as_fast(pair: Paired) -> str:
    """How many times as fast as the other we are: the median of the pairs, and their quartiles."""
    return f"{pair.ratio:.2f} ({pair.low:.2f}-{pair.high:.2f})"


def mean(ratios: Sequence[float]) -> float | None:
    """The geometric mean; None of none."""
    return statistics.geometric_mean(ratios) if ratios else None


def percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
