"""``python -m fastrnn``: what was built, whether it computes what torch.nn does, and how fast it is here."""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import fastrnn

from . import _C, _native
from .adopt import OURS

# Of the speed check: T, B, I, H.
SHAPE = (100, 1, 128, 128)
# What float32 sums of this size differ by in another order, several times over.
TOLERANCE = 1e-4
# Of the speed check: the least number of pairs, and what makes a ratio worthless. A thread without a core holds up all
# that wait for it: beside other processes torch.nn was 34 times as slow, at quartiles a twentieth apart.
LEAST_PAIRS = 5
BUSY = 0.1
WIDE = 1.5


def facts() -> Iterator[tuple[str, str]]:
    """What was built, and where it runs."""
    yield "fastrnn", f"{fastrnn.__version__}, {_C.__file__}"
    yield "compiler", _C.compiler
    yield "Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    yield "instructions", f"{_native.isa} (FASTRNN_ISA chooses another)"
    if not _native.cuda_built:
        yield "CUDA", "no kernels in this build"
        return
    yield "CUDA", f"kernels for {_C.cuda_architectures}"
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        yield f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"


def gradients(module: nn.Module, input: Tensor) -> list[Tensor]:
    """The module's outputs, and their gradients."""
    leaves = [input.detach().requires_grad_(), *module.parameters()]
    outputs = tree_leaves(module(leaves[0]))
    return [*outputs, *torch.autograd.grad(sum(out.sin().sum() for out in outputs), leaves)]


def difference(theirs: type[nn.Module], ours: type[nn.Module], device: str) -> float:
    """The largest difference of outputs and gradients, relative to the largest value of each."""
    module = theirs(5, 19, device=device)
    input = torch.randn((7, 3, 5) if issubclass(theirs, nn.RNNBase) else (3, 5), device=device)
    twin = ours(5, 19, device=device)
    twin.load_state_dict(module.state_dict())
    pairs = zip(gradients(twin, input), gradients(module, input), strict=True)
    # Not Python's max, which overlooks NaN.
    return torch.stack([(a - b).abs().max() / (1 + b.abs().max()) for a, b in pairs]).max().item()


def self_test() -> bool:
    """Every layer and cell on every device against torch.nn's; prints what was found."""
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count() if _native.cuda_built else 0))]
    passed = True
    for device in devices:
        found = {ours.__name__: difference(theirs, ours, device) for theirs, ours in OURS.items()}
        wrong = [name for name, error in found.items() if not error <= TOLERANCE]
        passed = passed and not wrong
        verdict = f"WRONG: {', '.join(wrong)}" if wrong else f"{', '.join(found)} equal torch.nn's"
        print(f"{'self-test':14}{device}: {verdict} (largest difference {max(found.values()):.1e})")
    return passed


def waited() -> float:
    """Seconds that this process's threads, taken together, were ready to run and had no core; 0 where Linux is mute."""
    total = 0
    for file in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            total += int(file.read_text().split()[1])
    return 1e-9 * total


class Comparison(NamedTuple):
    ms: float  # ours, median
    quartiles: list[float]  # of theirs over ours, pair by pair
    waiting: float  # for a core, as a share of the threads' time

    def __str__(self) -> str:
        low, ratio, high = self.quartiles
        if self.waiting > BUSY:
            verdict = "too noisy to tell: threads had to wait for a core"
        elif high > WIDE * low:
            verdict = f"too noisy to tell: {low:.2g} to {high:.2g} times as fast as torch.nn"
        else:
            verdict = f"{ratio:.2f} times as fast as torch.nn (quartiles {low:.2f} to {high:.2f})"
        return f"{self.ms:.2f} ms, {verdict}"


def compare(ours: Callable[[], object], theirs: Callable[[], object], seconds: float) -> Comparison:
    """Both in turns, for so many seconds."""
    pairs: list[tuple[float, float]] = []
    begin, waited_before = time.perf_counter(), waited()
    while len(pairs) < LEAST_PAIRS or time.perf_counter() < begin + seconds:
        taken = []
        for function in (ours, theirs):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
        pairs.append((taken[0], taken[1]))
    threads_time = torch.get_num_threads() * (time.perf_counter() - begin)
    return Comparison(
        ms=1e3 * statistics.median(a for a, _ in pairs),
        quartiles=statistics.quantiles([b / a for a, b in pairs], n=4, method="inclusive"),
        waiting=(waited() - waited_before) / threads_time,
    )


def speed_check(seconds: float) -> None:
    """Each layer against torch.nn's on the CPU, training and inference, in so many seconds together."""
    steps, batch, input_size, hidden_size = SHAPE
    input = torch.randn(steps, batch, input_size)
    layers = [pair for pair in OURS.items() if issubclass(pair[0], nn.RNNBase)]
    for theirs, ours in layers:
        modules = ours(input_size, hidden_size), theirs(input_size, hidden_size)

        def training(module: nn.Module) -> Callable[[], object]:
            return lambda: gradients(module, input)

        def inference(module: nn.Module) -> Callable[[], object]:
            return torch.no_grad()(lambda: module(input))

        for what in (training, inference):
            found = compare(what(modules[0]), what(modules[1]), seconds / (2 * len(layers)))
            print(f"{'speed':14}{ours.__name__} {what.__name__}: {found}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print all of it; 1 if the self-test failed."""
    parser = argparse.ArgumentParser(prog="python -m fastrnn", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="for the speed check; 0 leaves it out (default: 5)")
    args = parser.parse_args(arguments)
    for name, value in facts():
        print(f"{name:14}{value}")
    passed = self_test()
    if args.seconds > 0:
        shape = "T = {}, B = {}, I = {}, H = {}".format(*SHAPE)
        print(f"{'speed':14}at {shape}, {torch.get_num_threads()} threads, float32, on the CPU:")
        speed_check(args.seconds)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
