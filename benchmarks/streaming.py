"""The latency of one step, for programs that get their input step by step: T = B = 1, the states handed on."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import machine
import torch
from paired import compare
from report import Table, times_as_fast
from torch import nn
from workloads import CELLS, load

import fastrnn


def stream(module: nn.Module, input: torch.Tensor) -> Callable[[], None]:
    """A function that runs `module`, a layer or a cell, one step on from where it left off."""
    is_layer = isinstance(module, nn.RNNBase)
    input = input[None] if is_layer else input
    states: Any = None

    def step() -> None:
        nonlocal states
        with torch.no_grad():
            states = module(input, states)[1] if is_layer else module(input, states)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="I is the same")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparison (default: 0.5)")
    args = machine.begin(parser, threads=1)
    kinds = ("layer", "cell")
    comparisons = list(itertools.product(kinds, kinds))
    table = Table(
        f"One step, T = B = 1, {args.threads} thread(s): ours in us, and times as fast as torch.nn's",
        ["", "H", *(f"our {kind}" for kind in kinds), *(f"our {ours} / its {theirs}" for ours, theirs in comparisons)],
    )
    rows = []
    for cell, size in itertools.product(CELLS, args.hidden_sizes):
        weights = list(getattr(nn, cell)(size, size).parameters())
        input = torch.randn(1, size)
        names = {"layer": cell, "cell": cell + "Cell"}
        pairs = {}
        for ours, theirs in comparisons:
            modules = (getattr(fastrnn, names[ours])(size, size), getattr(nn, names[theirs])(size, size))
            steps = (stream(load(module, weights), input) for module in modules)
            pairs[ours, theirs] = compare(*steps, args.seconds)
        microseconds = (f"{pairs[kind, kind].ours * 1e6:.1f}" for kind in kinds)
        table.rows.append([cell, str(size), *microseconds, *map(times_as_fast, pairs.values())])
        rows += [
            {"cell": cell, "hidden_size": size, "ours": ours, "other": theirs, "pair": asdict(pair)}
            for (ours, theirs), pair in pairs.items()
        ]
    table.show()
    machine.save(args, threads=args.threads, rows=rows)


if __name__ == "__main__":
    main()
