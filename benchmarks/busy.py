"""A machine that is shared: what other processes on all cores do to our calls, and to torch.nn's.

Threads that wait for each other by spinning are at their worst when the operating system has taken a core from one of
them. Each call is timed on a quiet machine first, then beside processes that train torch.nn layers on all cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import machine
import peers
import torch
from paired import wall_seconds
from report import Table, milliseconds
from torch import nn
from workloads import CELLS, MODES, Case, build


def trouble() -> None:
    """What the other processes do until they are ended, or left alone."""
    parent = os.getppid()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layer, input = nn.LSTM(256, 256), torch.randn(50, 16, 256)
    layer(input)[0].sum().backward()
    print("ready", flush=True)
    while os.getppid() == parent:
        layer(input)[0].sum().backward()


@contextlib.contextmanager
def busy_machine(processes: int) -> Iterator[None]:
    others = []
    try:
        for _ in range(processes):
            command = [sys.executable, str(Path(__file__)), "--trouble"]
            others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for other in others:
            if other.stdout.readline() != "ready\n":
                raise RuntimeError("a process that should keep the machine busy ended")
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def times(functions: list[Callable[[], object]], calls: int) -> list[list[float]]:
    """Seconds of each call of each function, the functions in turns."""
    for function in functions * 3:
        function()
    rounds = [[wall_seconds(function) for function in functions] for _ in range(calls)]
    return [list(column) for column in zip(*rounds, strict=True)]


def spread(seconds: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    return statistics.median(seconds), statistics.quantiles(seconds, n=100, method="inclusive")[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Case.parse, default=Case(100, 16, 128, 128), metavar="T,B,I,H")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["inference"], help="(default: inference)")
    parser.add_argument("--calls", type=int, default=500, help="(default: 500)")
    parser.add_argument("--processes", type=int, default=2, help="that keep the machine busy (default: 2)")
    args = machine.begin(parser)
    implementations = [peers.fastrnn_layers(), peers.torch_layers()]
    labels = [(cell, mode, peer.name) for cell in CELLS for mode in args.modes for peer in implementations]
    problems = [build(cell, args.case, mode) for cell in CELLS for mode in args.modes]
    runs = [[peer.prepare(problem) for peer in implementations] for problem in problems]
    quiet = [spread(column) for functions in runs for column in times(functions, args.calls)]
    with busy_machine(args.processes):
        busy = [spread(column) for functions in runs for column in times(functions, args.calls)]
    table = Table(
        f"{args.case}, {args.threads} threads, beside {args.processes} processes on all cores; {args.calls} calls, ms",
        ["layer", "mode", "", "quiet median", "busy median", "busy / quiet", "quiet 99%", "busy 99%"],
    )
    rows = []
    for (cell, mode, name), (median, tail), (busy_median, busy_tail) in zip(labels, quiet, busy, strict=True):
        medians = (milliseconds(median), milliseconds(busy_median), f"{busy_median / median:.2f}")
        table.rows.append([cell, mode, name, *medians, milliseconds(tail), milliseconds(busy_tail)])
        what = {"cell": cell, "mode": mode, **asdict(args.case), "implementation": name, "processes": args.processes}
        seconds = {"quiet_seconds": median, "quiet_seconds_99": tail}
        rows.append({**what, **seconds, "busy_seconds": busy_median, "busy_seconds_99": busy_tail})
    table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["--trouble"]:
        trouble()
    else:
        main()
