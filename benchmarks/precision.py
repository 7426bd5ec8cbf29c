"""What storing in a half type is worth: inference in bfloat16 or float16 against our own float32."""

from __future__ import annotations

import argparse
import itertools
from dataclasses import asdict

import machine
import peers
import results
import torch
from paired import compare
from report import Table, milliseconds, times_as_fast
from workloads import CELLS, Case, build, load

import fastrnn

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=Case.parse, default=Case(100, 1, 1024, 1024), metavar="T,B,I,H")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each comparison (default: 3)")
    args = machine.begin(parser)
    case = args.case
    table = Table(
        f"Inference at {case}, {args.threads} thread(s)",
        ["layer", "dtype", "ms", "float32 ms", "times as fast", "largest difference"],
    )
    rows = []
    for cell, dtype in itertools.product(CELLS, args.dtypes):
        problem = build(cell, case, "inference")
        in_float32 = peers.fastrnn_layers().prepare(problem)
        module = load(getattr(fastrnn, cell)(case.input_size, case.hidden_size), problem.weights).to(DTYPES[dtype])
        input = problem.input.to(DTYPES[dtype])

        def in_half(module: torch.nn.Module = module, input: torch.Tensor = input) -> torch.Tensor:
            with torch.no_grad():
                return module(input)[0]

        difference = (in_half().float() - in_float32()[0]).abs().max().item()
        pair = compare(in_half, in_float32, args.seconds)
        table.rows.append(
            [cell, dtype, milliseconds(pair.ours), milliseconds(pair.other), times_as_fast(pair), f"{difference:.1g}"]
        )
        what = {"cell": cell, **asdict(case), "dtype": dtype, "difference": difference}
        rows.append({**what, **results.pair_columns(pair)})
    table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
