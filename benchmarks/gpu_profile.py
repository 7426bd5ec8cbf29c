"""Runs each main kernel once, for Nsight Compute to look at: a whole sequence forward, and backward.

    make gpu-profile                                                        # every cell, every precision
    make gpu-profile BENCH_ARGS="--cells LSTM --precisions bf16 --hidden 1024 --batch 64"
    make gpu-profile BENCH_ARGS="--cells GRU --precisions f16 --streamed"

or by hand; the clocks are left alone, and ncu runs a kernel again for each group of counters, so once is enough:

    ncu --clock-control none --set full --kernel-name-base mangled --kernel-name regex:fastrnn --export report \\
        python3 benchmarks/gpu_profile.py --cells LSTM --precisions bf16

What to read first: docs/gpu.md.
"""

from __future__ import annotations

import argparse
import itertools
import os

import torch
from gpu import PRECISIONS, Problem, chosen_path
from workloads import CELLS, Case

import fastrnn

# A streamed pass has a kernel a step, and all are alike.
STREAMED_STEPS = 2


def run(problem: Problem, device: str) -> None:
    """A forward and a backward pass."""
    torch.backends.cudnn.allow_tf32 = problem.precision == "tf32"
    case, module = problem.case, problem.build(fastrnn, device)
    value = torch.randn(case.steps, case.batch, case.input_size, dtype=problem.dtype, device=device, requires_grad=True)
    path, reason = chosen_path(module, value, "training")
    print(f"{problem.cell} {problem.precision} T,B,I,H={case}: {path}: {reason}", flush=True)
    problem.call(module, value, torch.randn(case.steps, case.batch, case.hidden_size).to(value))()
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=64, help="T of a persistent kernel (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="B (default: 16)")
    parser.add_argument(
        "--hidden", type=int, nargs="+", default=[512], help="H, and the input's features (default: 512)"
    )
    parser.add_argument("--streamed", action="store_true", help="the kernels of the streamed path")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, to try the script itself")
    args = parser.parse_args()
    if args.streamed:
        os.environ["FASTRNN_CUDA_PATH"] = "streamed"
    for cell, precision, hidden in itertools.product(args.cells, args.precisions, args.hidden):
        steps = STREAMED_STEPS if args.streamed or precision == "f32" else args.steps
        case = Case(steps, args.batch, hidden, hidden)
        run(Problem(cell, precision, "training", case), "cpu" if args.rehearse else "cuda")


if __name__ == "__main__":
    main()
