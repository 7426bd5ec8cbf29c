"""What stands in benchmarks/results/: as benchmarks/results.py writes it, and as the README's tables say."""

import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))
CELLS = ("RNN", "GRU", "LSTM")
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_lines_are_whole(benchmarks, path):
    lines = benchmarks("results").read(path)
    facts = benchmarks("machine").facts().keys() - {"commit"}  # git may not have been there
    assert lines
    for line in lines:
        assert all(line[name] for name in facts)
        if {"seconds", "pairs"} <= line.keys():
            pair = benchmarks("results").pair_of(line)
            assert pair.low <= pair.ratio <= pair.high
            assert pair.pairs >= 2


def test_what_is_written_is_read(benchmarks, tmp_path):
    results, report, workloads = map(benchmarks, ("results", "suite_report", "workloads"))
    row = report.Row("GRU", "training", workloads.Case(50, 8, 32, 128), 2, floor=None)
    row.pairs["torch"] = benchmarks("paired").Paired(0.25, 0.5, 2.0, 1.5, 2.5, 20)
    row.versions["torch"] = 'torch 2.13.0, "+cpu"'
    facts = benchmarks("machine").facts()
    results.write(tmp_path / "new" / "suite.csv", facts, report.lines([row]))
    (line,) = results.read(tmp_path / "new" / "suite.csv")
    assert report.rows_of([line]) == [row]
    assert benchmarks("machine").describe(line) == benchmarks("machine").describe(facts)


def means(report, rows, mode, threads, best):
    """As the README writes them: by cell, the geometric mean over the shapes, and the slowest one."""
    for cell in CELLS:
        these = [row for row in rows if (row.cell, row.mode, row.threads) == (cell, mode, threads)]
        ratios = [row.pairs[row.best_peer if best else "torch"].ratio for row in these]
        yield statistics.geometric_mean(ratios), min(ratios)


@pytest.mark.parametrize(("table", "machine"), [(0, "epyc_avx512"), (1, "xeon"), (2, "epyc")])
def test_tables_of_the_readme(benchmarks, table, machine):
    results, report = map(benchmarks, ("results", "suite_report"))
    rows = report.rows_of(results.read(ROOT / "benchmarks" / "results" / f"suite_{machine}.csv"))
    lines = re.findall(r"(?:^\|.*\n)+", README[README.index("| | RNN | GRU | LSTM |") :], re.MULTILINE)[table]
    for line in lines.splitlines()[2:]:
        what, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        mode, threads = what.split(",")[0], 1 if "1 thread" in what else 2
        found = means(report, rows, mode, threads, best="best of" in what)
        for cell, (mean, slowest) in zip(cells, found, strict=True):
            shown = re.fullmatch(r"([\d.]+) \(([\d.]+)\)", cell)
            for text, value in zip(shown.groups(), (mean, slowest), strict=True):
                digits = len(text.partition(".")[2])
                assert text == f"{value:.{digits}f}", f"{line}: {value}"


def test_chart_of_the_readme(benchmarks):
    results, report = map(benchmarks, ("results", "suite_report"))
    rows = report.rows_of(results.read(ROOT / "benchmarks" / "results" / "suite_epyc_avx512.csv"))
    (shown,) = re.findall(r"!\[Training.*?: (.*) in the geometric mean", README)
    found = (mean for mean, _ in means(report, rows, "training", 2, best=False))
    assert shown == ", ".join(f"{cell} {mean:.1f}" for cell, mean in zip(CELLS, found, strict=True))


def test_ragged_batches_of_the_readme(benchmarks):
    lines = benchmarks("results").read(ROOT / "benchmarks" / "results" / "sweep_epyc_avx512.csv")
    drawn = [line for line in lines if (line["option"], line["mode"]) == ("lengths", "training")]
    ratios = [float(line["ratio"]) for line in drawn]
    of_lstms = [float(line["ratio"]) for line in drawn if line["cell"] == "LSTM"]
    assert (len(ratios), len(of_lstms)) == (20, 9)
    mean, mean_of_lstms = map(statistics.geometric_mean, (ratios, of_lstms))
    text = " ".join(README.split())
    assert f"In twenty random draws of layer and shape, training was {mean:.1f} times as fast" in text
    assert f"geometric mean, {mean_of_lstms:.1f} in the nine LSTMs" in text
