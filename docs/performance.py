"""The page of figures, from what the benchmarks have written to benchmarks/results/."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import markdown_table  # benchmarks/

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
CELLS = ("RNN", "GRU", "LSTM")
PEERS = {"torch": "torch.nn", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


def mean_and_least(ratios: list[float]) -> str:
    return f"{statistics.geometric_mean(ratios):.2f} ({min(ratios):.2f})"


def where(measured: dict[str, Any]) -> str:
    """The machine, in a line."""
    machine = measured["machine"]
    counts = sorted({row.get("threads", machine["threads"]) for row in measured["rows"]})
    threads = "1 thread" if counts == [1] else f"{', '.join(map(str, counts))} threads"
    return (
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']} ({machine['torch_isa']}), "
        f"fastrnn {machine['fastrnn']} ({machine['fastrnn_isa']}), {threads}, {machine['date']}."
    )


def table(measured: dict[str, Any], header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f"{where(measured)}\n\n{markdown_table(header, rows)}"


def suite(name: str) -> str:
    """Means over the shapes of the grid, of each mode against each peer."""
    measured = results(name)
    ratios: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in measured["rows"]:
        for peer, pair in row["pairs"].items():
            ratios[row["mode"], peer][row["cell"]].append(pair["ratio"])
    rows = [
        [f"{mode}, against {PEERS[peer]}", *(mean_and_least(by_cell[cell]) for cell in CELLS)]
        for (mode, peer), by_cell in sorted(ratios.items())
    ]
    return table(measured, ["", *CELLS], rows)


def recurrences() -> str:
    """What each extra costs beside the plain layer, and how many times as fast as a Python loop it is."""
    measured = results("recurrences")
    rows = [
        [
            row["feature"],
            row["cell"],
            row["case"],
            f"{1 / row['plain']['ratio']:.2f}",
            f"{row['loop']['ratio']:.1f}" if row.get("loop") else "-",
        ]
        for row in measured["rows"]
    ]
    header = ["", "layer", "T, B, I, H", "of the plain layer's time", "times as fast as a loop"]
    return table(measured, header, rows)


def streaming() -> str:
    """The latency of one step."""
    measured = results("streaming")
    rows = [
        [
            row["cell"],
            str(row["hidden_size"]),
            f"{row['ours']} / {row['other']}",
            f"{row['pair']['ours'] / row['steps'] * 1e6:.1f}",
            f"{row['pair']['ratio']:.2f}",
        ]
        for row in measured["rows"]
    ]
    return table(measured, ["", "H", "ours / the other", "ours, us", "times as fast"], rows)


def memory() -> str:
    """The peak memory of a training step, as a share of torch.nn's."""
    measured = results("memory")
    by_case: dict[str, dict[str, float]] = defaultdict(dict)
    for row in measured["rows"]:
        by_case[row["case"]][row["cell"]] = row["ratio"]
    rows = [[case, *(f"{by_cell[cell]:.2f}" for cell in CELLS)] for case, by_cell in by_case.items()]
    return table(measured, ["T, B, I, H", *CELLS], rows)


def clients() -> str:
    """Whole programs of other projects."""
    measured = results("clients")
    rows = [
        [
            row["client"] if row["impl"] == "fastrnn" else f"{row['client']}, `resets=`",
            f"{row['seconds']['torch']:.2f}",
            f"{row['seconds'][row['impl']]:.2f}",
            f"{row['ratio']:.2f}",
        ]
        for row in measured["rows"]
    ]
    return table(measured, ["", "torch.nn, s", "fastrnn, s", "times as fast"], rows)


PAGE = """\
# How fast it is

Every figure is the median of runs in turns, A B A B. The tables are made from `benchmarks/results/`; `make bench`
measures anew, and so do the programs named below.

## Against other libraries

Times as fast, geometric mean over eleven shapes; in brackets the slowest one.

{suite}
![Times as fast as each peer, for every shape](../../benchmarks/results/suite_2.png)

### One thread

{one_thread}
### AVX2, both sides

{avx2}
### A processor with AVX2 and less cache

{epyc}
![Times as fast as each peer, for every shape](../../benchmarks/results/suite_epyc_2.png)

## Programs of other projects

`make clients`: training with losses equal to torch.nn's, everything else in the program included.

{clients}
## More than torch.nn's recurrences

`.venv/bin/python benchmarks/recurrences.py`, training.

{recurrences}
## One step at a time

`.venv/bin/python benchmarks/streaming.py`, T = B = 1.

{streaming}
## Memory of a training step

`.venv/bin/python benchmarks/memory.py`: the peak, as a share of torch.nn's.

{memory}"""


def write(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    page = PAGE.format(
        suite=suite("suite"),
        one_thread=suite("suite_one_thread"),
        avx2=suite("suite_avx2"),
        epyc=suite("suite_epyc"),
        clients=clients(),
        recurrences=recurrences(),
        streaming=streaming(),
        memory=memory(),
    )
    path.write_text(page)
