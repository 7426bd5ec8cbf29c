"""The grid for pytest-benchmark: a group for each layer, mode and shape, the implementations side by side in it.

    .venv/bin/python -m pytest benchmarks --benchmark-only -k "100x16x128x128 and LSTM and inference"

suite.py is the one to trust where a machine's speed drifts: here the implementations are timed one after the other.
"""

from __future__ import annotations

import peers
import pytest
import torch
from unavailable import UnavailableError
from workloads import CELLS, GRID, MODES, Case, build

IMPLEMENTATIONS = {"fastrnn": lambda threads: peers.fastrnn_layers(), **peers.PEERS}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("case", GRID, ids=lambda case: str(case).replace(",", "x"))
def test_layer(benchmark, implementation: str, mode: str, cell: str, case: Case) -> None:
    benchmark.group = f"{cell} {mode} {case}"
    problem = build(cell, case, mode)
    try:
        run = IMPLEMENTATIONS[implementation](torch.get_num_threads()).prepare(problem)
    except UnavailableError as reason:
        pytest.skip(str(reason))
    peers.check(implementation, run(), peers.torch_layers().prepare(problem)())
    benchmark(run)
