"""What the benchmarks have measured, as plots.

    .venv/bin/python benchmarks/plots.py bars benchmarks/results/suite_epyc.csv bars.png --threads 2

`make plots` draws those that the README and the site show.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import results
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from report import mean
from suite_report import Row, Rows, groups, measured, peers, rows_of, threads_of
from workloads import CELLS

INK = "#7d7d7d"  # can be read on white and on black: pages are either, so the plots have no background
LEAST_SHOWN = 0.4  # what is below is a mark with its value: one outlier would flatten the rest
HEAT = "RdYlGn"
MOST_HEAT = 8.0  # times as fast, from which on a field is of the last colour


def panels(lines: Sequence[results.Line]) -> Figure:
    """Every pair's median and quartiles over the cases: a panel for each number of threads, layer and mode."""
    rows = suite(lines)
    layers = list(groups(rows))
    figure = _figure(9, 2 + 2.6 * len(layers))
    axes = figure.subplots(len(layers), squeeze=False)[:, 0]
    for axis, group in zip(axes, layers, strict=True):
        _panel(axis, group, peers(rows))
    marks = {mark.get_label(): mark for axis in axes for mark in axis.containers}
    figure.legend(handles=list(marks.values()), loc="outside upper center", ncols=len(marks))
    return figure


def _panel(axis: Axes, rows: Rows, names: Sequence[str]) -> None:
    for index, peer in enumerate(names):
        places = [place for place, row in enumerate(rows) if peer in row.pairs]
        pairs = [rows[place].pairs[peer] for place in places]
        if not pairs:
            continue
        across = [place + 0.12 * (index - (len(names) - 1) / 2) for place in places]
        ratios = [pair.ratio for pair in pairs]
        errors = [[pair.ratio - pair.low for pair in pairs], [pair.high - pair.ratio for pair in pairs]]
        axis.errorbar(across, ratios, yerr=errors, fmt="o", color=f"C{index}", label=peer)
        for place, ratio in zip(across, ratios, strict=True):
            if ratio < LEAST_SHOWN:
                text = f"{ratio:.2f} \N{BLACK DOWN-POINTING TRIANGLE}"
                axis.annotate(
                    text, (place, LEAST_SHOWN), (0, 3), textcoords="offset points", ha="center", color=f"C{index}"
                )
    axis.axhline(1, color=INK, linewidth=1)
    axis.set_yscale("log", base=2)
    axis.set_ylim(bottom=max(axis.get_ylim()[0], LEAST_SHOWN))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xticks(range(len(rows)), [str(row.case).replace(",", "\n") for row in rows])
    axis.set_ylabel("times as fast")
    axis.set_title(f"fastrnn.{rows[0].cell}, {rows[0].mode}, {threads_of(rows[0])}; cases are T, B, I, H", loc="left")


def bars(lines: Sequence[results.Line]) -> Figure:
    """Training against torch.nn: a panel of bars for each layer, a bar for each case."""
    layers = training(lines)
    figure = _figure(9, 4.2)
    axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, layers, strict=True):
        ratios = [row.pairs["torch"].ratio for row in group]
        drawn = axis.barh([_name(row) for row in group], [ratio - 1 for ratio in ratios], left=1)
        for bar, ratio in zip(drawn, ratios, strict=True):
            axis.annotate(
                f"{ratio:.3g}", (max(ratio, 1), bar.get_y() + 0.4), (3, 0), textcoords="offset points", va="center"
            )
        axis.axvline(1, color=INK, linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks([1, 3, 10, 30], minor=False)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim(0.9, 120)
        axis.set_title(f"{group[0].cell}: {mean(ratios):.1f} in the mean")
    axes[0].invert_yaxis()
    axes[0].set_ylabel("T, B, I, H")
    _label_below(figure, f"training, {threads_of(layers[0][0])}: times as fast as torch.nn (logarithmic)")
    return figure


def heat(lines: Sequence[results.Line]) -> Figure:
    """Training against torch.nn over the batch and the hidden size: a map for each layer."""
    layers = training(lines)
    figure = _figure(9, 3.4)
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, layers, strict=True):
        ratios = {(row.case.batch, row.case.hidden_size): row.pairs["torch"].ratio for row in group}
        batches, sizes = (sorted({place[side] for place in ratios}) for side in (0, 1))
        fields = [[math.log(ratios.get((batch, size), math.nan)) for size in sizes] for batch in batches]
        limit = math.log(MOST_HEAT)
        axis.imshow(fields, HEAT, aspect="auto", vmin=-limit, vmax=limit, origin="lower")
        for (batch, size), ratio in ratios.items():
            axis.text(
                sizes.index(size),
                batches.index(batch),
                f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}",
                ha="center",
                va="center",
                color="black",
            )
        axis.set_xticks(range(len(sizes)), list(map(str, sizes)), rotation=90)
        axis.set_yticks(range(len(batches)), list(map(str, batches)))
        axis.set_title(group[0].cell)
        axis.set_xlabel("H = I")
    axes[0].set_ylabel("B")
    _label_below(
        figure, f"training, T = {layers[0][0].case.steps}, {threads_of(layers[0][0])}: times as fast as torch.nn"
    )
    return figure


def floor(lines: Sequence[results.Line]) -> Figure:
    """How much of our time the machine needs at the least: bars for each layer, training beside inference."""
    rows = [row for row in suite(lines) if row.of_floor is not None]
    figure = _figure(9, 4.6)
    axes = figure.subplots(1, len(CELLS), sharex=True, sharey=True)
    for axis, cell in zip(axes, CELLS, strict=True):
        for index, mode in enumerate(("training", "inference")):
            group = [row for row in rows if (row.cell, row.mode) == (cell, mode)]
            places = [place + 0.4 * (index - 0.5) for place in range(len(group))]
            axis.barh(places, [100 * (row.of_floor or 0) for row in group], 0.4, label=mode)
            axis.set_yticks(range(len(group)), [_name(row) for row in group])
        axis.axvline(100, color=INK, linewidth=1)
        axis.set_title(cell)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("T, B, I, H")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    _label_below(figure, f"the least time that the machine allows, % of ours, {threads_of(rows[0])}")
    return figure


def memory(lines: Sequence[results.Line]) -> Figure:
    """The peak memory of a training step, of what memory.py wrote: a group of bars for each case."""
    cases = list(dict.fromkeys(map(results.case_of, lines)))
    figure = _figure(9, 3.6)
    axis = figure.subplots()
    for index, cell in enumerate(CELLS):
        shares = {results.case_of(line): 100 * float(line["ratio"]) for line in lines if line["cell"] == cell}
        places = [place + 0.27 * (index - 1) for place in range(len(cases))]
        axis.bar(places, [shares[case] for case in cases], 0.27, label=cell)
    axis.axhline(100, color=INK, linewidth=1)
    axis.set_xticks(range(len(cases)), [str(case).replace(",", "\n") for case in cases])
    axis.set_ylabel("% of torch.nn's peak")
    figure.legend(loc="outside upper center", ncols=len(CELLS))
    _label_below(figure, "the memory of a training step; cases are T, B, I, H")
    return figure


PLOTS: dict[str, Callable[[Sequence[results.Line]], Figure]] = {
    plot.__name__: plot for plot in (panels, bars, heat, floor, memory)
}


def suite(lines: Sequence[results.Line]) -> list[Row]:
    """The rows of what suite.py wrote that have been measured."""
    return [row for row in rows_of(lines) if row.pairs]


def training(lines: Sequence[results.Line]) -> list[Rows]:
    """Those of training, by layer."""
    return [group for group in groups(suite(lines)) if group[0].mode == "training"]


def _name(row: Row) -> str:
    return str(row.case).replace(",", ", ")


def _label_below(figure: Figure, text: str) -> None:
    figure.supxlabel(text, color=INK, fontsize=11)


def _figure(width: float, height: float) -> Figure:
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    rcParams.update({**dict.fromkeys(names, INK), "axes.facecolor": "none", "legend.frameon": False, "font.size": 11})
    return Figure(figsize=(width, height), layout="constrained")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plot", choices=PLOTS)
    parser.add_argument("file", type=Path, help="what suite.py --csv wrote; memory.py for memory")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", help="the counts to look at (default: all)")
    args = parser.parse_args()
    figure = PLOTS[args.plot](measured(args.file, args.threads))
    args.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.picture, transparent=True, dpi=120)
    print(f"wrote {args.picture}")


if __name__ == "__main__":
    main()
