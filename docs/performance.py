"""The pages of figures, from what the benchmarks have written to benchmarks/results/."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

# benchmarks/
import results
import suite_report
from report import markdown_table

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
CELLS = ("RNN", "GRU", "LSTM")
PEERS = {"torch": "torch.nn", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Lines = Sequence[results.Line]


def measured(name: str) -> Lines:
    return results.read(RESULTS / f"{name}.csv")


def mean_and_least(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})"


def where(lines: Lines) -> str:
    """The machine and the sources, in a line."""
    facts = lines[0]
    counts = sorted({int(line["threads"]) for line in lines})
    threads = "1 thread" if counts == [1] else f"{', '.join(map(str, counts))} threads"
    return (
        f"{facts['processor']}, {facts['cores']} cores, torch {facts['torch']} ({facts['torch_isa']}), "
        f"fastrnn {facts['fastrnn']} ({facts['fastrnn_isa']}), {threads}, {facts['date']}, commit {facts['commit']}."
    )


def table(lines: Lines, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"{where(lines)}\n\n{markdown_table(header, rows)}"


def suite(name: str, threads: int = 2) -> str:
    """Means over the shapes of the grid, of each mode against each peer."""
    lines = [line for line in measured(name) if int(line["threads"]) == threads]
    ratios: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        ratios[line["mode"], line["peer"]][line["cell"]].append(float(line["ratio"]))
    rows = [
        [f"{mode}, against {PEERS[peer]}", *(mean_and_least(by_cell[cell]) for cell in CELLS)]
        for (mode, peer), by_cell in sorted(ratios.items())
    ]
    return table(lines, ["", *CELLS], rows)


def recurrences() -> str:
    """What each extra costs beside the plain layer, and how many times as fast as a Python loop it is."""
    lines = measured("recurrences_epyc")
    ratios: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    for line in lines:
        ratios[line["feature"], line["cell"], str(results.case_of(line))][line["other"]] = float(line["ratio"])
    rows = [[*what, f"{1 / against['plain']:.2f}", f"{against['loop']:.1f}"] for what, against in ratios.items()]
    header = ["", "layer", "T, B, I, H", "of the plain layer's time", "times as fast as a loop"]
    return table(lines, header, rows)


def own_cells() -> str:
    """A cell that a user writes, against our own layer, the loop over its function, and that loop compiled."""
    lines = [line for line in measured("own_cells_epyc_avx512") if line["feature"] in ("kernels", "loop", "compiled")]
    other = {"kernels": "our own layer", "loop": "the loop", "compiled": "the loop, torch.compile"}
    rows = [
        [line["cell"], line["mode"], str(results.case_of(line)), other[line["feature"]], f"{float(line['ratio']):.2f}"]
        for line in lines
    ]
    return table(lines, ["", "", "T, B, I, H", "against", "times as fast"], rows)


def streaming() -> str:
    """The latency of one step."""
    lines = measured("streaming_epyc")
    rows = [
        [
            line["cell"],
            line["hidden_size"],
            f"{line['ours']} / {line['other']}",
            f"{float(line['seconds']) / int(line['steps']) * 1e6:.1f}",
            f"{float(line['ratio']):.2f}",
        ]
        for line in lines
    ]
    return table(lines, ["", "H", "ours / the other", "ours, us", "times as fast"], rows)


def memory() -> str:
    """The peak memory of a training step, as a share of torch.nn's."""
    lines = measured("memory_epyc")
    by_case: dict[str, dict[str, float]] = defaultdict(dict)
    for line in lines:
        by_case[str(results.case_of(line))][line["cell"]] = float(line["ratio"])
    rows = [[case, *(f"{by_cell[cell]:.2f}" for cell in CELLS)] for case, by_cell in by_case.items()]
    return table(lines, ["T, B, I, H", *CELLS], rows)


def clients() -> str:
    """Whole programs of other projects; below, those that have no figures, and why."""
    lines = measured("clients_epyc_avx512")
    rows = [
        [
            f"{line['project']}: {line['what']}" + (f" (`{line['impl']}`)" if line["impl"] != "fastrnn" else ""),
            line["adopted"],
            f"{max(float(line[name]) for name in ('outputs', 'gradients', 'losses')):.3f}",
            *(f"{float(line[name]):.2f}" for name in ("other_seconds", "seconds", "ratio")),
        ]
        for line in lines
        if line["ratio"]
    ]
    header = ["", "adopted by", "difference, of what is tolerated", "torch.nn, s", "fastrnn, s", "times as fast"]
    without = [f"- {line['project']}: {line['status']}" for line in lines if not line["ratio"]]
    return "\n".join([table(lines, header, rows), *(["Not run on this machine:", "", *without, ""] if without else [])])


def shapes(name: str) -> str:
    """Every shape of the grid, for each number of threads."""
    lines = measured(name)
    threads = dict.fromkeys(line["threads"] for line in lines)
    heads = [where([line for line in lines if line["threads"] == count]) for count in threads]
    return "\n\n".join([*heads, *(one.markdown() for one in suite_report.tables(suite_report.rows_of(lines)))])


PAGE = """\
# How fast it is

Every figure is the median of runs in turns, A B A B. The tables are made from `benchmarks/results/`; `make bench`
measures anew, and so do the programs named below. Each table names its commit: later sources may be faster.

## Against other libraries

Times as fast, geometric mean over eleven shapes; in brackets the slowest one. {{doc}}`shapes` has each of them.

{epyc_avx512}
![Times as fast as each peer, for every shape](../../benchmarks/results/suite_epyc_avx512_2.png)

### One thread

{one_thread}
### Batches and sizes

![Times as fast as torch.nn, over batch and hidden size](../../benchmarks/results/batches_epyc_avx512.png)

### What the machine allows

The least time is that of the layer's products and memory traffic at the best rates seen in the same run
(`benchmarks/roofline.py`); it counts nothing for a call's overhead or for waiting at each step.

![The least time that the machine allows, as a share of ours](../../benchmarks/results/floor_epyc_avx512.png)

### An Intel processor

{suite}
![Times as fast as each peer, for every shape](../../benchmarks/results/suite_xeon_2.png)

### AVX2, both sides

{avx2}
### A processor with AVX2 and less cache

{epyc}
![Times as fast as each peer, for every shape](../../benchmarks/results/suite_epyc_2.png)

## Programs of other projects

`make clients`: models of projects from PyPI, trained with torch.nn's layers and with fastrnn's, everything else in the
program included. Outputs, first gradients and losses are compared with torch.nn's; what is tolerated of each stands in
`benchmarks/clients.py`.

{clients}
## More than torch.nn's recurrences

`.venv/bin/python benchmarks/recurrences.py`, training.

{recurrences}
## Cells of one's own

`.venv/bin/python benchmarks/own_cells.py`: GRU and LSTM as written with `fastrnn.cell`, against the layers so named and
against a Python loop over the very function.

{own_cells}
## One step at a time

`.venv/bin/python benchmarks/streaming.py`, T = B = 1.

{streaming}
## Memory of a training step

`.venv/bin/python benchmarks/memory.py`: the peak, as a share of torch.nn's.

{memory}
![The peak memory of a training step, as a share of torch.nn's](../../benchmarks/results/memory_epyc.png)
"""


SHAPES = """\
# Every shape

Times as fast as each peer, medians and quartiles, and how near the least time that the machine allows: what
`.venv/bin/python benchmarks/suite.py` prints.

## AVX-512, AMD

{epyc_avx512}
## AVX-512, Intel

{xeon}
## AVX-512, both sides held to AVX2

{avx2}
## AVX2 and less cache

{epyc}"""


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    page = PAGE.format(
        epyc_avx512=suite("suite_epyc_avx512"),
        suite=suite("suite_xeon"),
        one_thread=suite("suite_epyc_avx512", threads=1),
        avx2=suite("suite_xeon_avx2"),
        epyc=suite("suite_epyc"),
        clients=clients(),
        recurrences=recurrences(),
        own_cells=own_cells(),
        streaming=streaming(),
        memory=memory(),
    )
    (folder / "performance.md").write_text(page)
    page = SHAPES.format(
        epyc_avx512=shapes("suite_epyc_avx512"),
        xeon=shapes("suite_xeon"),
        avx2=shapes("suite_xeon_avx2"),
        epyc=shapes("suite_epyc"),
    )
    (folder / "shapes.md").write_text(page)
