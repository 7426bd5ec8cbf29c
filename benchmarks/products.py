"""The large GEMMs of a layer by each code that could compute them: torch.mm, oneDNN, our panels.

For the thresholds in csrc/cpu/tuning.h, and for the floor of roofline.py. float32, results overwritten; oneDNN
allocates its result, so the copy into place is part of its time.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from functools import cache

import machine
import torch
from compiled import compiled
from torch import Tensor
from unavailable import UnavailableError

KINDS = ("gates", "dX", "dW")
# Rows (steps times batch), the input's width, the gates' width.
SHAPES = (
    *((1000, narrow, 256) for narrow in (1, 3, 5, 10, 20)),
    (4, 64, 256),
    (32, 64, 256),
    (64, 256, 1024),
    (256, 64, 512),
    (100, 512, 2048),
    (512, 128, 512),
    (700, 200, 800),
    (700, 650, 2600),
    (1536, 96, 800),
    (6400, 512, 2048),
)
LEAST_SECONDS = 2e-4  # of one measurement: shorter products are repeated


def operands(kind: str, rows: int, inputs: int, gates: int) -> tuple[Tensor, Tensor]:
    """Of the input with w_ih, of the gates' gradients with it, and of both for the gradient of w_ih."""
    input, grads = torch.randn(rows, inputs), torch.randn(rows, gates)
    w_ih = torch.randn(gates, inputs)
    return {"gates": (input, w_ih.t()), "dX": (grads, w_ih), "dW": (grads.t(), input)}[kind]


def seconds(kind: str, rows: int, inputs: int, gates: int, threads: int, budget: float = 0.05) -> dict[str, float]:
    """The least time of each code that is there."""
    a, b = operands(kind, rows, inputs, gates)
    out = torch.empty(a.shape[0], b.shape[1])
    codes: dict[str, Callable[[int], None]] = {"torch.mm": _repeated(lambda: torch.mm(a, b, out=out))}
    if torch.backends.mkldnn.is_available():
        codes["oneDNN"] = _repeated(lambda: out.copy_(_by_onednn(a, b)))
    try:
        codes["panels"] = _panels(out, a, b, threads)
    except UnavailableError as reason:
        print(f"without our panels: {reason}")
    torch.set_num_threads(threads)
    return {name: _least(run, budget) for name, run in codes.items()}


def _by_onednn(a: Tensor, b: Tensor) -> Tensor:
    """Whichever way round is faster where a's columns are contiguous: the transpose."""
    multiply = torch.ops.mkldnn._linear_pointwise
    if a.stride(1) == 1:
        return multiply(a, b.t(), None, "none", [], "")
    return multiply(b.t(), a, None, "none", [], "").t()


def _panels(out: Tensor, a: Tensor, b: Tensor, threads: int) -> Callable[[int], None]:
    """The layout of choose_gemm_plan: narrow results transposed, and divided by whichever is longer."""
    library = compiled("gemm.cpp")
    library.gemm_seconds.restype = ctypes.c_double
    if out.shape[1] < (32 if a.stride(1) != 1 else 8) and out.shape[1] < out.shape[0]:
        out, a, b = out.t(), b.t(), a.t()
    strides = (ctypes.c_int64 * 6)(*out.stride(), *a.stride(), *b.stride())
    sizes = (ctypes.c_int64(size) for size in (*out.shape, a.shape[1]))
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (out, a, b))
    arguments = (*pointers, *sizes, strides, threads, out.shape[0] >= out.shape[1])

    def run(times: int) -> None:
        library.gemm_seconds(*arguments, times)

    run.operands = (out, a, b)  # type: ignore[attr-defined]  # whose memory it reads
    return run


def _repeated(product: Callable[[], object]) -> Callable[[int], None]:
    def run(times: int) -> None:
        for _ in range(times):
            product()

    return run


def _least(run: Callable[[int], None], budget: float) -> float:
    """Seconds of one product: of many measurements the least, since what disturbs one only slows it."""
    run(1)
    times, least, end = 1, float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(times)
        taken = time.perf_counter() - start
        least = min(least, taken / times)
        if taken < LEAST_SECONDS:
            times *= 2
    return least


@cache
def best_rate(kind: str, inputs: int, gates: int, threads: int) -> tuple[float, str]:
    """Multiply-adds a second of the fastest code, with many rows, and its name."""
    rows = 2048
    taken = seconds(kind, rows, inputs, gates, threads, 0.02)
    name = min(taken, key=taken.__getitem__)
    return rows * inputs * gates / taken[name], name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.05, help="for each figure (default: 0.05)")
    args = machine.begin(parser)
    print("GFLOP/s of each; the fastest last")
    for rows, inputs, gates in SHAPES:
        for kind in KINDS:
            taken = seconds(kind, rows, inputs, gates, args.threads, args.seconds)
            flops = 2e-9 * rows * inputs * gates
            figures = "  ".join(f"{name} {flops / time:6.1f}" for name, time in taken.items())
            print(
                f"{rows:5} x {inputs:4} x {gates:4}  {kind:5}  {figures}  {min(taken, key=taken.__getitem__)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
