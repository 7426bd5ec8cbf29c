"""fastrnn against torch.nn (cuDNN) on one GPU: both in turns, same dtype, same switch for TF32, the input's product
and, in training, every gradient included.

    make gpu-bench                                  # all of it, in nine minutes
    make gpu-bench BENCH_ARGS="--quick"             # a selection, in two
    make gpu-bench BENCH_ARGS="--paths"             # our persistent kernels against our streamed path

With --paths the ratios say where the streamed path is the faster one: for the thresholds in csrc/cuda/tuning.h. What
gpu_model.py predicts of a step, and the share of the floor that was reached, stand beside what was measured.

A time is that of a call among calls in a row, by CUDA events: what a training loop sees, which launches ahead.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import results
import torch
from gpu_model import Gpu, predict
from paired import Paired, compare, wall_seconds
from torch import Tensor, nn
from torch.autograd import DeviceType
from workloads import CELLS, MODES, Case

import fastrnn

PRECISIONS = {
    "f32": torch.float32,
    "tf32": torch.float32,  # as torch has it by default
    "f16": torch.float16,
    "bf16": torch.bfloat16,
}

# Cases that others have published, and what they say: of an H100, and without the input's product.
FLASHRNN, TORCHRL = Case(1024, 16, 768, 768), Case(256, 2048, 128, 128)
PUBLISHED = {
    FLASHRNN: "FlashRNN's plot, H100, LSTM: its bf16 4.87 ms forward, 13.61 both ways; nn.LSTM f16 2.01 and 5.19",
    TORCHRL: "torchrl PR 3738, H100, LSTM f32, both ways: its Triton 11.7 ms, cuDNN 33.8",
}


def square(steps: int, batch: int, hidden: int) -> Case:
    return Case(steps, batch, hidden, hidden)


QUICK = (FLASHRNN, TORCHRL, *(square(256, batch, hidden) for batch, hidden in ((1, 512), (16, 512), (64, 1024))))
HIDDEN_BY_BATCH = {
    1: (64, 128, 256, 512, 1024, 2048),
    8: (128, 512),
    16: (64, 256, 512, 768, 1024, 2048),
    64: (128, 256, 512, 1024, 2048),
    128: (256, 512, 1024),
    256: (64, 256, 1024, 2048),
}
GRID = (
    *QUICK,
    *(square(256, batch, hidden) for batch, sizes in HIDDEN_BY_BATCH.items() for hidden in sizes),
    *(square(100, batch, 512) for batch in (1, 64)),
    *(square(1024, batch, hidden) for batch, hidden in ((16, 512), (64, 1024))),
)
# Small enough to try this script without a GPU.
REHEARSED = (square(4, 2, 16), square(4, 3, 24))

# torch's choice among cuDNN's algorithms depends on T, but not beyond this many steps.
PROFILED_STEPS = 100
BURST_SECONDS = 0.003
MOST_IN_A_BURST = 50


@dataclass(frozen=True)
class Problem:
    """What is timed: a layer of one kind, its call and its precision."""

    cell: str
    precision: str
    mode: str  # of MODES, or "forward", the first half of training
    case: Case

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]

    def build(self, namespace: Any, device: str) -> nn.Module:
        """The layer; with the same weights in whichever namespace."""
        torch.manual_seed(0)
        case = self.case
        module: nn.Module = getattr(namespace, self.cell)(
            case.input_size, case.hidden_size, dtype=self.dtype, device=device
        )
        return module

    def call(self, module: nn.Module, value: Tensor, upstream: Tensor) -> Callable[[], Any]:
        if self.mode == "inference":

            def infer() -> Any:
                with torch.no_grad():
                    return module(value)

            return infer
        if self.mode == "forward":
            return lambda: module(value)
        wanted = [value, *module.parameters()]
        return lambda: torch.autograd.grad(module(value)[0], wanted, upstream)


@dataclass(frozen=True)
class Row:
    """What was measured; `other` is torch.nn, or with --paths our streamed path."""

    cell: str
    precision: str
    mode: str
    case: Case
    path: str  # forward's, and backward's if it is another
    reason: str
    ours_us_per_step: float
    other_us_per_step: float
    host_us: float  # of ours, a call
    ratio: float  # the other's time over ours: median of the pairs, and quartiles
    ratio_low: float
    ratio_high: float
    pairs: int
    difference: float  # of the results, relative
    other_kernel: str  # of torch.nn's, the one that ran longest
    predicted_us_per_step: float | None  # by gpu_model.py, where it predicts
    share_of_floor: float | None

    def columns(self, other: str) -> dict[str, Any]:
        """A line of results; `other` names what ours was timed against."""
        figures = asdict(self)
        what = {name: figures.pop(name) for name in ("cell", "precision", "mode")}
        return {**what, **figures.pop("case"), "other": other, **figures}


class Burst:
    """Calls in a row, so many that they last."""

    def __init__(self, function: Callable[[], Any], timed: Callable[[Callable[[], object]], float]) -> None:
        function()
        once = min(timed(function) for _ in range(2))
        self.function, self.count = function, max(1, min(MOST_IN_A_BURST, int(BURST_SECONDS / max(once, 1e-6))))

    def __call__(self) -> None:
        for _ in range(self.count):
            self.function()


def gpu_seconds(function: Callable[[], object]) -> float:
    """From the first to the last of what a call has the GPU do."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    seconds: float = start.elapsed_time(end) / 1e3
    return seconds


def host_seconds(function: Callable[[], object], wait: Callable[[], None], calls: int = 9) -> float:
    """What a call takes of the host: the median, each on a GPU that has nothing else to do."""
    times = []
    for _ in range(calls):
        wait()
        times.append(wall_seconds(function))
    wait()
    return statistics.median(times)


def on_streamed_path(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        os.environ["FASTRNN_CUDA_PATH"] = "streamed"  # read at each call
        try:
            return function()
        finally:
            del os.environ["FASTRNN_CUDA_PATH"]

    return run


def longest_kernel(function: Callable[[], Any]) -> str:
    """The kernel that most of the GPU's time in a call goes to."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    kernels = [event for event in profile.key_averages() if event.device_type == DeviceType.CUDA]
    return max(kernels, key=lambda event: event.self_device_time_total).key if kernels else ""


def difference(ours: Any, other: Any) -> float:
    """Of the output, or of the input's gradient: relative, by the root of the mean square."""
    mine, theirs = (tensors[0].double() for tensors in (ours, other))
    return ((mine - theirs).norm() / theirs.norm()).item()


def chosen_path(module: nn.Module, value: Tensor, mode: str) -> tuple[str, str]:
    """The path of a call, and the reason; those of backward are named where they are others."""
    with torch.set_grad_enabled(mode != "inference"):
        forward, backward = fastrnn.explain(module, value).rows
    if mode != "training" or (forward.path, forward.reason) == (backward.path, backward.reason):
        return forward.path, forward.reason
    return f"{forward.path}, {backward.path}", f"{forward.reason}; backward: {backward.reason}"


def measure(problem: Problem, args: argparse.Namespace) -> Row | None:
    """A row of the table; None with --paths where there is one path only."""
    case, device = problem.case, args.device
    torch.backends.cudnn.allow_tf32 = problem.precision == "tf32"
    module = problem.build(fastrnn, device)
    keeps = problem.mode != "inference"
    value = torch.randn(
        case.steps, case.batch, case.input_size, dtype=problem.dtype, device=device, requires_grad=keeps
    )
    upstream = torch.randn(case.steps, case.batch, case.hidden_size, dtype=problem.dtype, device=device)
    path, reason = chosen_path(module, value, problem.mode)
    ours, kernel = problem.call(module, value, upstream), ""
    if args.paths:
        if "streamed" in path and not args.rehearse:
            return None
        other = on_streamed_path(ours)
    else:
        theirs = problem.build(nn, device)
        other = problem.call(theirs, value, upstream)
        if device == "cuda" and problem.mode != "forward":
            few = value.detach()[:PROFILED_STEPS].requires_grad_(keeps)
            kernel = longest_kernel(problem.call(theirs, few, upstream[:PROFILED_STEPS]))
    off_by = difference(ours(), other())
    timed = gpu_seconds if device == "cuda" else wall_seconds
    bursts = Burst(ours, timed), Burst(other, timed)
    result: Paired = compare(*bursts, args.seconds, 5, timed=lambda burst: timed(burst) / burst.count)
    host = host_seconds(ours, torch.cuda.synchronize if device == "cuda" else lambda: None) * 1e6
    microseconds = result.ours * 1e6 / case.steps, result.other * 1e6 / case.steps
    ratios = result.ratio, result.low, result.high, result.pairs
    what = problem.cell, problem.precision, problem.mode, case
    model = predict(*what, Gpu())
    modelled = (model.call_us_per_step, model.share(microseconds[0])) if model else (None, None)
    return Row(*what, path, reason, *microseconds, host, *ratios, off_by, kernel, *modelled)


def problems(args: argparse.Namespace) -> Iterator[Problem]:
    """What is known elsewhere first, then LSTM before the others: the time may end before the list."""
    cases = REHEARSED if args.rehearse else QUICK if args.quick else dict.fromkeys(GRID)
    cells, precisions = args.cells or CELLS[::-1], args.precisions or list(PRECISIONS)[::-1]
    for cell in cells:
        for precision in precisions:
            if args.quick and not args.precisions and cell != "LSTM" and precision != "bf16":
                continue
            for case in cases:
                for mode in MODES:
                    yield Problem(cell, precision, mode, case)


def measure_all(args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Rows, and a line for each problem without one."""
    rows: list[Row] = []
    left_out: list[str] = []
    end = time.monotonic() + 60 * args.minutes
    for problem in problems(args):
        if time.monotonic() > end:
            left_out.append(f"all from {problem} on: --minutes are over")
            break
        try:
            row = measure(problem, args)
        except (RuntimeError, NotImplementedError) as error:  # no kernel for it in torch.nn, or no memory
            left_out.append(f"{problem}: {str(error).splitlines()[0]}")
            continue
        finally:
            if args.device == "cuda":
                torch.cuda.empty_cache()
        if row:
            rows.append(row)
            print(line(row), flush=True)
    return rows, left_out


def facts() -> dict[str, Any]:
    """What a figure depends on, beside the code."""
    known = machine.facts()
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        known |= {
            "gpu": gpu.name,
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
            "memory": gpu.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return known


HEADINGS = (
    *("layer", "precision", "mode", "T", "B", "I", "H", "path", "us/step", "predicted", "of the floor"),
    *("other", "host us", "other / ours", "its kernel"),
)


ALLOWED_DIFFERENCE = {"f32": 1e-4, "tf32": 1e-2, "f16": 1e-2, "bf16": 5e-2}


def is_right(row: Row) -> bool:
    """Whether both sides' results agree; if not, or with NaN, a time means nothing."""
    return row.difference <= ALLOWED_DIFFERENCE[row.precision]


def line(row: Row) -> str:
    case = row.case
    if not is_right(row):
        what = f"{row.cell} {row.precision} {row.mode} T,B,I,H={case} {row.path}"
        return f"WRONG: {what}: results differ by {row.difference:.2g}"
    kernel = row.other_kernel.removeprefix("void ").split("(")[0]
    modelled = ("", "")
    if row.predicted_us_per_step and row.share_of_floor:
        modelled = f"{row.predicted_us_per_step:.2f}", f"{row.share_of_floor:.0%}"
    figures = f"{row.ours_us_per_step:.2f}", *modelled, f"{row.other_us_per_step:.2f}", f"{row.host_us:.0f}"
    ratio = f"{row.ratio:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})"
    sizes = case.steps, case.batch, case.input_size, case.hidden_size
    cells = (row.cell, row.precision, row.mode, *sizes, row.path, *figures, ratio, kernel[:48])
    return f"| {' | '.join(map(str, cells))} |"


def table(rows: list[Row]) -> str:
    return "\n".join([f"| {' | '.join(HEADINGS)} |", "|---" * len(HEADINGS) + "|", *map(line, filter(is_right, rows))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few shapes, in two minutes")
    parser.add_argument("--paths", action="store_true", help="our two paths against each other, where both can run")
    parser.add_argument("--cells", nargs="+", choices=CELLS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS)
    parser.add_argument("--seconds", type=float, default=0.15, help="for each line (default: 0.15)")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of them (default: 9)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write what was measured there")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes on the CPU, to try the script itself")
    args = parser.parse_args()
    args.device = "cpu" if args.rehearse else "cuda"
    if args.device == "cuda" and not (torch.cuda.is_available() and fastrnn._native.cuda_built):
        parser.error("torch finds no GPU, or fastrnn was built without CUDA; --rehearse tries this on the CPU")

    known = facts()
    print(", ".join(f"{name} {value}" for name, value in known.items()), flush=True)
    rows, left_out = measure_all(args)
    other = "our streamed path" if args.paths else "torch.nn"
    print(f"\nThe other is {other}; quartiles in brackets; above 1 the first is faster.\n\n{table(rows)}\n")
    for case in PUBLISHED:
        if any(row.case == case for row in rows):
            print(f"{case}: {PUBLISHED[case]}")
    wrong = [row for row in rows if not is_right(row)]
    print(*left_out, *map(line, wrong), sep="\n")
    if args.csv:
        results.write(args.csv, known, (row.columns(other) for row in rows if is_right(row)))
    if wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
