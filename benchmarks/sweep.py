"""Shapes and options drawn at random, off the grid: where is fastrnn slowest against torch.nn?

Sequences of different lengths are given to torch.nn the way its users must: packed, and unpacked again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

import machine
import results
import torch
from paired import Paired, compare
from report import Table, mean, milliseconds, times_as_fast
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from workloads import CELLS, MODES, Case, load

import fastrnn

HIDDEN_SIZES = (7, 32, 50, 64, 100, 128, 200, 256, 300, 512, 650, 1024)
BATCHES = (1, 2, 3, 5, 8, 16, 24, 64, 100)
INPUT_SIZES = (1, 10, 40, 80, 128, 300, 512, 1500)
MOST_STEPS = 4000
OPTIONS = ("plain", "two layers", "bidirectional", "packed", "lengths")
# Multiply-adds of a training call of what is drawn: a larger one would leave no time for pairs.
MOST_WORK = 20e9


@dataclass(frozen=True)
class Draw:
    cell: str
    mode: str
    option: str
    case: Case

    def __str__(self) -> str:
        return f"{self.cell} {self.mode} {self.option} {self.case}"

    def columns(self) -> dict[str, object]:
        return {"cell": self.cell, "mode": self.mode, "option": self.option, **asdict(self.case)}


def draw(generator: random.Random) -> Draw:
    """Steps are drawn by their logarithm, so that short sequences are as frequent as long ones."""
    while True:
        case = Case(
            round(MOST_STEPS ** generator.random()),
            generator.choice(BATCHES),
            generator.choice(INPUT_SIZES),
            generator.choice(HIDDEN_SIZES),
        )
        drawn = Draw(generator.choice(CELLS), generator.choice(MODES), generator.choice(OPTIONS), case)
        if case.work(drawn.cell, "training") <= MOST_WORK:
            return drawn


def prepare(drawn: Draw) -> tuple[Callable[[], object], Callable[[], object]]:
    """What to time: ours, and torch.nn's."""
    case = drawn.case
    sizes = (case.input_size, case.hidden_size, 2 if drawn.option == "two layers" else 1)
    bidirectional = drawn.option == "bidirectional"
    theirs = getattr(nn, drawn.cell)(*sizes, bidirectional=bidirectional)
    ours = load(getattr(fastrnn, drawn.cell)(*sizes, bidirectional=bidirectional), list(theirs.parameters()))
    training = drawn.mode == "training"
    input = torch.randn(case.steps, case.batch, case.input_size, requires_grad=training)
    lengths = torch.randint(1, case.steps + 1, (case.batch,))
    lengths[0] = case.steps

    def output(module: nn.Module) -> Tensor:
        if drawn.option == "packed":
            return module(pack_padded_sequence(input, lengths, enforce_sorted=False))[0].data
        if drawn.option != "lengths":
            return module(input)[0]
        if module is ours:
            return module(input, lengths=lengths)[0]
        return pad_packed_sequence(module(pack_padded_sequence(input, lengths, enforce_sorted=False))[0])[0]

    with torch.no_grad():
        torch.testing.assert_close(output(ours), output(theirs), rtol=1e-3, atol=1e-4)
        grad = torch.randn_like(output(theirs))

    def run(module: nn.Module) -> None:
        if training:
            torch.autograd.grad(output(module), [input, *module.parameters()], grad)
        else:
            with torch.no_grad():
                output(module)

    return lambda: run(ours), lambda: run(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=100, help="(default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="the same draws each time (default: 0)")
    parser.add_argument("--worst", type=int, default=10, help="lines of the table at the end (default: 10)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each draw (default: 1)")
    parser.add_argument("--least", type=int, default=5, help="pairs, however long they take (default: 5)")
    args = machine.begin(parser)
    generator = random.Random(args.seed)
    torch.manual_seed(args.seed)
    measured: list[tuple[Draw, Paired]] = []
    for _ in range(args.draws):
        drawn = draw(generator)
        measured.append((drawn, compare(*prepare(drawn), args.seconds, args.least)))
        print(f"{drawn!s:50} {times_as_fast(measured[-1][1])}", flush=True)
    measured.sort(key=lambda one: one[1].ratio)
    overall = mean([pair.ratio for _, pair in measured])
    slower = sum(pair.ratio < 1 for _, pair in measured)
    table = Table(
        f"The slowest of {len(measured)} draws (seed {args.seed}) against torch.nn; times as fast on geometric mean: "
        f"{overall:.2f}, draws below 1: {slower}",
        ["layer, mode, option, T,B,I,H", "ms", "torch.nn ms", "times as fast"],
    )
    for drawn, pair in measured[: args.worst]:
        table.rows.append([str(drawn), milliseconds(pair.ours), milliseconds(pair.other), times_as_fast(pair)])
    table.show()
    rows = ({"seed": args.seed, **drawn.columns(), **results.pair_columns(pair)} for drawn, pair in measured)
    machine.save(args, rows)


if __name__ == "__main__":
    main()
