"""What a cell of one's own costs: against the library's, against the loop that it replaces, against memory.

- kernels: LSTM and GRU as users write them, against fastrnn's own
- loop: a user's GRU against a Python loop over the very function, in torch ops
- compiled: the same against that loop under torch.compile, up to 32 steps, because it writes out each
- memory: the time loop of a cell without a recurrent product, whose gates lie in memory, against a plain read of these
  and write of the states
- compiling: how long g++ takes for a cell
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any
from unittest.mock import patch

import machine
import results
import torch
import torch.nn.functional as F
from paired import Paired, compare, wall_seconds
from recurrences import training
from report import Table, milliseconds, times_as_fast
from torch import Tensor, nn
from workloads import MODES, Case

import fastrnn
from fastrnn import _native
from fastrnn._cell.build import DTYPES, library_of
from fastrnn.papers import CELLS

CASES = (Case(100, 1, 128, 128), Case(100, 16, 128, 128), Case(512, 8, 64, 64), Case(100, 32, 256, 256))
# Gates of 33 and 66 MB; an input so narrow that its product takes little time.
LARGE = Case(1000, 16, 16, 512)
COMPILED_STEPS = 32


def gru(x: Any, r: Any, h: Any) -> Any:
    reset = torch.sigmoid(x.r + r.r)
    z = torch.sigmoid(x.z + r.z)
    n = torch.tanh(x.n + reset * r.n)
    return (1 - z) * n + z * h


def lstm(x: Any, r: Any, h: Any, c: Any) -> Any:
    i, f, o = torch.sigmoid(x.i + r.i), torch.sigmoid(x.f + r.f), torch.sigmoid(x.o + r.o)
    c = f * c + i * torch.tanh(x.g + r.g)
    return o * torch.tanh(c), c


OwnGRU = fastrnn.cell(gates=("r", "z", "n"), name="OwnGRU")(gru)
OwnLSTM = fastrnn.cell(gates=("i", "f", "g", "o"), states=("h", "c"), name="OwnLSTM")(lstm)
OWN = {"GRU": OwnGRU, "LSTM": OwnLSTM}

Row = dict[str, object]
# A line of a table, and of the CSV file.
Measured = tuple[list[str], Row]
Call = Callable[[Tensor], Tensor]

Gates = namedtuple("Gates", ("r", "z", "n"))


class Loop(nn.Module):
    """The GRU's function, step by step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = self.layer.parameters()
        h = input.new_zeros(input.shape[1], w_hh.shape[1])
        outputs = []
        for x in F.linear(input, w_ih, b_ih):
            h = gru(Gates(*x.chunk(3, -1)), Gates(*F.linear(h, w_hh, b_hh).chunk(3, -1)), h)
            outputs.append(h)
        return torch.stack(outputs)


def _output(layer: nn.Module) -> Call:
    return lambda input: layer(input)[0]


def pair_of_calls(
    case: Case, mode: str, seconds: float, ours: tuple[nn.Module, Call], other: tuple[nn.Module, Call]
) -> Paired:
    """Both on the same input, their results compared before. A module comes with what calls it."""
    input = torch.randn(case.steps, case.batch, case.input_size, requires_grad=mode == "training")
    grad = torch.randn(case.steps, case.batch, case.hidden_size)

    def function(module: nn.Module, call: Call) -> Callable[[], Any]:
        if mode == "training":
            return training(module, lambda: call(input), input, grad)
        return torch.no_grad()(lambda: call(input))

    a, b = function(*ours), function(*other)
    torch.testing.assert_close(a(), b(), rtol=1e-3, atol=1e-3)
    return compare(a, b, seconds, least=6)


def _line(feature: str, cell: str, mode: str, case: Case, pair: Paired) -> Measured:
    cells = [cell, mode, str(case), milliseconds(pair.ours), milliseconds(pair.other), times_as_fast(pair)]
    return cells, {"feature": feature, "cell": cell, "mode": mode, **asdict(case), **results.pair_columns(pair)}


def kernels(cases: Sequence[Case], seconds: float) -> Iterator[Measured]:
    for name, own in OWN.items():
        for case in cases:
            ours, other = (kind(case.input_size, case.hidden_size) for kind in (own, getattr(fastrnn, name)))
            other.load_state_dict(ours.state_dict())
            for mode in MODES:
                pair = pair_of_calls(case, mode, seconds, (ours, _output(ours)), (other, _output(other)))
                yield _line("kernels", name, mode, case, pair)


def loop(cases: Sequence[Case], seconds: float) -> Iterator[Measured]:
    yield from _against_loop("loop", cases, seconds, lambda loop: loop)


def compiled(cases: Sequence[Case], seconds: float) -> Iterator[Measured]:
    short = [replace(case, steps=min(case.steps, COMPILED_STEPS)) for case in cases]
    yield from _against_loop("compiled", short, seconds, lambda loop: torch.compile(loop, fullgraph=True))


def _against_loop(
    feature: str, cases: Sequence[Case], seconds: float, prepare: Callable[[nn.Module], Call]
) -> Iterator[Measured]:
    for case in cases:
        layer = OwnGRU(case.input_size, case.hidden_size)
        other = Loop(layer)
        call = prepare(other)
        for mode in MODES:
            pair = pair_of_calls(case, mode, seconds, (layer, _output(layer)), (other, call))
            yield _line(feature, "GRU", mode, case, pair)


@contextlib.contextmanager
def _one_product(rows: int) -> Iterator[None]:
    """In it torch.mm multiplies a layer's input of all steps ahead of the time loop."""
    _native._C.force_input_steps(0)
    _native._C.force_chunk_rows(rows)
    _native._C.force_panel_gemms(False)
    try:
        yield
    finally:
        _native._C.force_input_steps(-1)
        _native._C.force_chunk_rows(0)
        _native._C.force_panel_gemms(None)


@torch.no_grad()
def loop_alone(cell: str, gates: int, case: Case, seconds: float) -> Paired:
    """What a layer takes beside the product of its input, against the plain read and write.

    All three return memory of their own, as new to the process each time.
    """
    rows, units = case.steps * case.batch, case.hidden_size
    layer = getattr(fastrnn, cell)(case.input_size, units)
    input = torch.randn(case.steps, case.batch, case.input_size)
    weight, bias, flat = layer.weight_ih_l0.t(), layer.bias_ih_l0, input.view(rows, -1)
    parts = torch.addmm(bias, flat, weight).chunk(gates, -1)

    def of_loop() -> float:
        return wall_seconds(lambda: layer(input)) - wall_seconds(lambda: torch.addmm(bias, flat, weight))

    def plain() -> float:
        return wall_seconds(lambda: parts[0] + parts[-1])

    with _one_product(rows):
        return compare(of_loop, plain, seconds, least=6, timed=lambda function: function())  # type: ignore[arg-type,return-value]


def memory(cases: Sequence[Case], seconds: float) -> Iterator[Measured]:
    for case in cases:
        for cell, gates in (("IndRNN", 1), ("MinGRU", 2)):
            yield _line("memory", cell, "inference", case, loop_alone(cell, gates, case, seconds))


def compiling() -> Table:
    table = Table(f"Seconds to compile a cell for {_native.isa}", ["cell", *DTYPES.values()])
    for own in (*(layer._own for layer in OWN.values()), *CELLS):
        seconds = []
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, TORCH_EXTENSIONS_DIR=folder):
                seconds.append(wall_seconds(lambda: library_of(own.name, own.source(), dtype)))  # noqa: B023
        table.rows.append([own.name, *(f"{each:.1f}" for each in seconds)])
    return table


PARTS = {"kernels": kernels, "loop": loop, "compiled": compiled, "memory": memory}
OTHERS = {
    "kernels": "fastrnn's own layer",
    "loop": "the Python loop over the same function",
    "compiled": "that loop under torch.compile",
    "memory": "a plain read of the gates and write of the states: the time loop alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*PARTS, "compiling"), default=(*PARTS, "compiling"))
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=CASES, metavar="T,B,I,H")
    parser.add_argument("--large", nargs="+", type=Case.parse, default=[LARGE], metavar="T,B,I,H", help="of memory")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each ratio (default: 1)")
    args = machine.begin(parser)
    rows = []
    for name in (name for name in PARTS if name in args.only):
        table = Table(
            f"Against {OTHERS[name]}, {args.threads} thread(s)",
            ["cell", "mode", "T,B,I,H", "ms", "other's ms", "times as fast"],
        )
        for cells, row in PARTS[name](args.large if name == "memory" else args.cases, args.seconds):
            table.rows.append(cells)
            rows.append(row)
        table.show()
    if "compiling" in args.only:
        compiling().show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
