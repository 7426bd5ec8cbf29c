"""The latency of one step, for programs that get their input step by step: T = B = 1, the states handed on.

Each of our layers and cells is timed against each of torch.nn's, frozen ones against themselves as they were, and
fastrnn.Stream against torch.nn's cell and the runtimes that are installed (`make bench` installs them).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import machine
import results
import torch
from onnx_runtimes import OnnxRuntime, OpenVino
from paired import Paired, compare
from report import Table, times_as_fast
from torch import nn
from unavailable import UnavailableError
from workloads import CELLS, Case, Problem, build, load

import fastrnn

# Steps of a turn: a program that streams runs one model after its own steps, not after another model's.
STEPS = 50
KINDS = ("layer", "cell")


def stream(module: nn.Module, input: torch.Tensor) -> Callable[[], None]:
    """A function that runs `module`, a layer or a cell, STEPS steps on from where it left off, one a call."""
    is_layer = isinstance(module, nn.RNNBase)
    input = input[None] if is_layer else input
    states: Any = None

    def steps() -> None:
        nonlocal states
        with torch.no_grad():
            for _ in range(STEPS):
                states = module(input, states)[1] if is_layer else module(input, states)

    return steps


def repeated(step: Callable[[], Any]) -> Callable[[], None]:
    """A function that takes STEPS steps."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def runtimes(problem: Problem, expected: Any) -> dict[str, Callable[[], None]]:
    """Those that are installed and stream, once the outputs of their first two steps are the expected ones."""
    found = {}
    for name, make in {"onnxruntime": OnnxRuntime, "openvino": OpenVino}.items():
        try:
            step = make(torch.get_num_threads()).stream(problem)
        except UnavailableError:
            continue
        outputs = [torch.as_tensor(step()).flatten().clone() for _ in range(2)]
        torch.testing.assert_close(torch.stack(outputs), expected, rtol=1e-4, atol=1e-5)
        found[name] = repeated(step)
    return found


def measure(cell: str, size: int, seconds: float) -> dict[tuple[str, str], Paired]:
    """What the file's first lines say, of one layer."""
    problem = build(cell, Case(1, 1, size, size), "inference")
    weights, input = problem.weights, problem.input[0]
    names = {"layer": cell, "cell": cell + "Cell"}

    def streamed(package: Any, kind: str, frozen: bool = False) -> Callable[[], None]:
        module = load(getattr(package, names[kind])(size, size), weights)
        return stream(module.pack_weights() if frozen else module, input)

    pairs = {
        (ours, theirs): compare(streamed(fastrnn, ours), streamed(nn, theirs), seconds)
        for ours, theirs in itertools.product(KINDS, KINDS)
    }
    for kind in KINDS:
        pairs[f"frozen {kind}", f"our {kind}"] = compare(
            streamed(fastrnn, kind, frozen=True), streamed(fastrnn, kind), seconds
        )
    online = fastrnn.Stream(load(getattr(fastrnn, cell)(size, size), weights))
    expected = torch.cat([online.step(input) for _ in range(2)])
    others = {"cell": streamed(nn, "cell"), **runtimes(problem, expected)}
    for name, other in others.items():
        pairs["Stream", name] = compare(repeated(lambda: online.step(input)), other, seconds)
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="I is the same")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparison (default: 0.5)")
    args = machine.begin(parser, threads=1)
    measured = {
        (cell, size): measure(cell, size, args.seconds) for cell, size in itertools.product(CELLS, args.hidden_sizes)
    }
    comparisons = next(iter(measured.values()))
    table = Table(
        f"One step, T = B = 1, {args.threads} thread(s): ours in us, and times as fast as torch.nn's",
        ["", "H", *(f"our {kind}" for kind in KINDS), *(f"{ours} / {other}" for ours, other in comparisons)],
    )
    rows = []
    for (cell, size), pairs in measured.items():
        microseconds = (f"{pairs[kind, kind].ours / STEPS * 1e6:.1f}" for kind in KINDS)
        table.rows.append([cell, str(size), *microseconds, *map(times_as_fast, pairs.values())])
        what = {"cell": cell, "hidden_size": size, "steps": STEPS}
        rows += [
            {**what, "ours": ours, "other": other, **results.pair_columns(pair)}
            for (ours, other), pair in pairs.items()
        ]
    table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
