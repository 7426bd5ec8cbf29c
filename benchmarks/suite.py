"""Every layer, shape and mode of the grid against torch.nn and other peers, and against the machine's floor.

Each peer is timed in turns with fastrnn in this process (paired.py), so a ratio holds on a machine whose speed drifts.
Before a row is timed, what every implementation computes in it must equal what torch.nn does.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import machine
import peers
import roofline
import suite_report
import torch
from paired import SETTLE_SECONDS, Paired, compare
from suite_report import Row
from unavailable import UnavailableError
from workloads import CELLS, GRID, MODES, Case, build

NO_TIME = "no time left for it"
# Of a quick run: it must end in 3 minutes, imports and the roofline's measurements included.
QUICK = {"peers": ["torch"], "seconds": 0.4, "least": 3, "budget": 140.0}


class Clock:
    """Shares out the seconds that are left among the comparisons that are left."""

    def __init__(self, args: argparse.Namespace, comparisons: int) -> None:
        self.seconds, self.least = args.seconds, args.least
        self.end = time.perf_counter() + args.budget if args.budget else float("inf")
        self.comparisons = comparisons

    @property
    def left(self) -> float:
        """Seconds, below 0 when too much has been spent."""
        return self.end - time.perf_counter()

    def compare(self, ours: Callable[[], object], other: Callable[[], object], settle: float) -> Paired:
        """As paired.compare, within the share; UnavailableError where even the least would not be."""
        self.comparisons -= 1
        start = time.perf_counter()
        ours()
        other()
        calls = 2 + self.least * (2 if settle else 1)  # compare()'s two of warming up, and what it settles with
        if (time.perf_counter() - start) * calls > self.left:
            raise UnavailableError(NO_TIME)
        return compare(ours, other, min(self.seconds, self.left / (self.comparisons + 1)), self.least, settle)


def measure(row: Row, implementations: list[peers.Implementation], clock: Clock) -> None:
    """Fill the row's pairs, and where there is none the reason."""
    problem = build(row.cell, row.case, row.mode)
    ours = peers.fastrnn_layers().prepare(problem)
    expected = peers.torch_layers().prepare(problem)()
    peers.check("fastrnn", ours(), expected)

    def against(peer: peers.Implementation) -> None:
        try:
            other = peer.prepare(problem)
            peers.check(peer.name, other(), expected)
            settle = SETTLE_SECONDS if peer.own_threads and row.threads > 1 else 0.0
            row.pairs[peer.name] = clock.compare(ours, other, settle)
            row.versions[peer.name] = peer.version
        except UnavailableError as reason:
            row.left_out[peer.name] = str(reason)

    for implementation in implementations:
        against(implementation)


def make_peer(name: str, threads: int) -> peers.Implementation | None:
    try:
        return peers.PEERS[name](threads)
    except UnavailableError as reason:
        print(f"without {name}: {reason}")
        return None


def make_floors(threads: int) -> roofline.Machine | None:
    try:
        return roofline.Machine(threads)
    except UnavailableError as reason:
        print(f"without a roofline: {reason}")
        return None


def run(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    grid = list(itertools.product(args.cells, args.modes, args.cases))
    clock = Clock(args, len(grid) * len(args.peers) * len(args.threads))
    for threads in args.threads:
        torch.set_num_threads(threads)
        floors = make_floors(threads)
        implementations = [peer for name in args.peers if (peer := make_peer(name, threads))]
        versions = "; ".join(peer.version for peer in implementations)
        print(f"threads: {threads}; peers: {versions or 'none'}", flush=True)
        these = [Row(cell, mode, case, threads) for cell, mode, case in grid]
        # The cheap ones first: what a budget cannot pay for is then as little of the grid as can be.
        for row in sorted(these, key=lambda row: row.case.work(row.cell, row.mode)):
            if clock.left > 0:
                row.floor = floors.floor(row.cell, row.case, row.mode) if floors else None
                measure(row, implementations, clock)
            else:
                row.left_out = dict.fromkeys(args.peers, NO_TIME)
            print(suite_report.line(row), flush=True)
        if floors:
            print(f"floor: the fastest products were {floors.fastest_codes()}")
        rows += these
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="torch.nn only, few pairs, within 3 minutes")
    parser.add_argument("--peers", nargs="+", choices=peers.PEERS, help="(default: all)")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=GRID, metavar="T,B,I,H", help="(default: grid)")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, help="for each comparison (default: 2)")
    parser.add_argument("--least", type=int, help="pairs of each comparison, however long they take (default: 10)")
    parser.add_argument("--budget", type=float, help="seconds in all; what they do not suffice for is left out")
    args = machine.begin(parser, several_threads=True)
    defaults = QUICK if args.quick else {"peers": list(peers.PEERS), "seconds": 2.0, "least": 10, "budget": None}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    rows = run(args)
    for table in suite_report.tables(rows):
        table.show()
    machine.save(args, suite_report.lines(rows))


if __name__ == "__main__":
    main()
