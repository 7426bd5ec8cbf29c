"""What suite.py measured, as plots.

    .venv/bin/python benchmarks/suite_plots.py benchmarks/results/suite_epyc.csv --threads 2 --bars bars.png

`make plots` draws those that the README and the site show.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from report import mean
from suite_report import Rows, groups, measured, peers, rows_of, threads_of

INK = "#7d7d7d"  # can be read on white and on black: pages are either, so the plots have no background
LEAST_SHOWN = 0.4  # what is below is a mark with its value: one outlier would flatten the rest


def panels(rows: Rows, path: Path) -> None:
    """Every pair's median and quartiles over the cases: a panel for each number of threads, layer and mode."""
    layers = list(groups(rows))
    figure = _figure(9, 2 + 2.6 * len(layers))
    axes = figure.subplots(len(layers), squeeze=False)[:, 0]
    for axis, group in zip(axes, layers, strict=True):
        _panel(axis, group, peers(rows))
    marks = {mark.get_label(): mark for axis in axes for mark in axis.containers}
    figure.legend(handles=list(marks.values()), loc="outside upper center", ncols=len(marks))
    _save(figure, path)


def bars(rows: Rows, path: Path) -> None:
    """Training against torch.nn: a panel of bars for each layer, a bar for each case."""
    layers = [group for group in groups(rows) if group[0].mode == "training"]
    figure = _figure(9, 4.2)
    axes = figure.subplots(1, len(layers), sharex=True, sharey=True, squeeze=False)[0]
    for axis, group in zip(axes, layers, strict=True):
        ratios = [row.pairs["torch"].ratio for row in group]
        drawn = axis.barh([str(row.case).replace(",", ", ") for row in group], [ratio - 1 for ratio in ratios], left=1)
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
    figure.supxlabel(
        f"training, {threads_of(layers[0][0])}: times as fast as torch.nn (logarithmic)", color=INK, fontsize=11
    )
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "legend.labelcolor")
    rcParams.update({**dict.fromkeys(names, INK), "axes.facecolor": "none", "legend.frameon": False, "font.size": 11})
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, dpi=120)
    print(f"wrote {path}")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what suite.py --csv wrote")
    parser.add_argument("--threads", type=int, nargs="+", help="the counts to look at (default: all)")
    parser.add_argument("--panels", type=Path, metavar="FILE", help="draw there the ratios to every peer")
    parser.add_argument("--bars", type=Path, metavar="FILE", help="draw there those of training to torch.nn")
    args = parser.parse_args()
    rows = [row for row in rows_of(measured(args.file, args.threads)) if row.pairs]
    for draw, path in ((panels, args.panels), (bars, args.bars)):
        if path:
            draw(rows, path)


if __name__ == "__main__":
    main()
