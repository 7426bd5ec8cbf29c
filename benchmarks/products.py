"""When a product is worth a second thread: torch.mm on MKL's threads, and on the calling one alone.

For kSingleThreadGemm in csrc/cpu/tuning.h. Needs a torch whose GEMM is MKL's.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path

import torch
from paired import compare
from torch import Tensor

ROWS, HIDDEN_SIZES = (4, 16, 32, 100, 400), (32, 64, 128, 256)  # steps times batch, and I = H
MOST = 8 << 20  # multiply-adds


def products(rows: int, hidden: int, gates: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Those of the input with w_ih, of the gates' gradients with it, and of both for the gradient of w_ih."""
    input, grads = torch.randn(rows, hidden), torch.randn(rows, gates * hidden)
    w_ih = torch.randn(gates * hidden, hidden)
    return {"gates": (input, w_ih.t()), "grad of input": (grads, w_ih), "grad of w_ih": (grads.t(), input)}


def on_threads(mkl: ctypes.CDLL, threads: int, a: Tensor, b: Tensor, times: int) -> Callable[[], None]:
    """The product, several times over; 0 threads: as many as torch set."""
    out = torch.empty(a.shape[0], b.shape[1])

    def run() -> None:
        mkl.MKL_Set_Num_Threads_Local(threads)
        for _ in range(times):
            torch.mm(a, b, out=out)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.1, help="for each figure (default: 0.1)")
    parser.add_argument("--threads", type=int, default=2, help="default: 2")
    parser.add_argument("--gates", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    mkl = ctypes.CDLL(str(next(Path(torch.__file__).parent.joinpath("lib").glob("libtorch_cpu.*"))))
    print(f"The time on {args.threads} threads over that on one")
    for rows in ROWS:
        for hidden in HIDDEN_SIZES:
            macs = rows * args.gates * hidden * hidden
            if macs > MOST:
                continue
            figures = []
            for name, (a, b) in products(rows, hidden, args.gates).items():
                times = max(1, (1 << 20) // macs)
                one, all_of_them = (on_threads(mkl, threads, a, b, times) for threads in (1, 0))
                figures.append(f"{name} {compare(one, all_of_them, args.seconds).ratio:4.2f}")
            print(f"{rows:4} rows, I = H = {hidden:3}: {macs:8} multiply-adds  {'   '.join(figures)}", flush=True)


if __name__ == "__main__":
    main()
