"""What the examples share: the command line, checkpoints, the training loop, and the comparison at its end."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import fastrnn

PACKAGES: dict[str, ModuleType] = {"torch": nn, "fastrnn": fastrnn}  # where each --impl finds its layers
LOGGED_LOSSES = 50  # the loss that the bar shows is a mean of so many


class Task(ABC):
    """A model to train. What is random in it comes from torch's generator."""

    name: str
    steps: int  # of a full run
    learning_rate = 2e-3
    figure: str  # what a full run reaches, one of measure()'s
    least: float

    @abstractmethod
    def build(self, package: ModuleType) -> nn.Module:
        """The model, of torch.nn's layers or fastrnn's."""

    @abstractmethod
    def loss(self, model: nn.Module) -> Tensor:
        """Of one batch to train on, drawn at random."""

    @abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """What the model can do with data that it was not trained on."""

    @abstractmethod
    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        """Print or draw what the model does; the pictures' files."""


class StopOnSignal:
    """Turns the first Ctrl-C (or SIGTERM) into a flag, so that a step is never cut in half; the second one kills."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopOnSignal:
        self._previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.__exit__()


def stopped(checkpoint: Path, command: Sequence[str] = sys.orig_argv) -> str:
    """What to say after a signal: the very command that goes on, whatever started this one (make, for instance)."""
    resume = [] if "--resume" in command else ["--resume"]
    return f"\nstopped; {checkpoint} is saved. To go on from there:\n    {shlex.join([*command, *resume])}"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state to `path`; whatever interrupts this, `path` holds the old checkpoint or the new one."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def decay(step: int, steps: int) -> float:
    """The learning rate at a step, as a share of the first: half a cosine, down to a twentieth."""
    return 0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2


def parse(task: Task | type[Task], doc: str, argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--impl", choices=PACKAGES, default="fastrnn", help="whose layers to train (default: %(default)s)")
    option("--steps", type=int, default=task.steps, help="(default: %(default)s; fewer are not judged)")
    option("--seed", type=int, default=0, help="(default: %(default)s)")
    option("--threads", type=int, help="torch's number of threads (default: torch's own choice)")
    option("--compare", type=float, default=4.0, metavar="SECONDS", help="of both at the end (default: %(default)s)")
    option("--out", type=Path, default=Path(__file__).resolve().parent / "out", help="folder (default: %(default)s)")
    option("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be 1 or more")
    return args


class Training:
    """A model on its way, as a checkpoint holds it."""

    speaks = True  # whether it shows a bar
    save_every = 200  # steps

    def __init__(self, task: Task, args: argparse.Namespace) -> None:
        self.task, self.args = task, args
        self.checkpoint = args.out / f"{task.name}_{args.impl}.pt"
        torch.manual_seed(args.seed)
        self.model = task.build(PACKAGES[args.impl])
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.losses: list[float] = []

    def step(self) -> None:
        """Draw a batch and learn from it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.task.learning_rate * decay(len(self.losses), self.args.steps)
        self.optimizer.zero_grad()
        loss = self.task.loss(self.model)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.losses.append(loss.item())

    def save(self) -> None:
        state = {
            "steps": self.args.steps,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "generator": torch.get_rng_state(),
        }
        save_checkpoint(self.checkpoint, state)

    def resume(self) -> None:
        if not self.checkpoint.exists():
            sys.exit(f"{self.task.name}: nothing to resume: {self.checkpoint} does not exist")
        state = torch.load(self.checkpoint, weights_only=True)
        if state["steps"] != self.args.steps:
            sys.exit(f"{self.task.name}: {self.checkpoint} is of a run with --steps {state['steps']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = state["losses"]
        torch.set_rng_state(state["generator"])

    def stopping(self, stop: StopOnSignal) -> bool:
        """Whether to stop before the next step."""
        return stop.requested

    def run(self) -> bool:
        """The steps that are left; False if a signal stopped them. The checkpoint is up to date either way."""
        quiet = not sys.stderr.isatty()  # in a log, a line now and then
        steps = self.args.steps
        bar = tqdm(
            total=steps,
            initial=len(self.losses),
            unit="step",
            mininterval=15 if quiet else 0.2,
            disable=not self.speaks,
        )
        with StopOnSignal() as stop, bar:
            while len(self.losses) < steps and not self.stopping(stop):
                self.step()
                bar.set_postfix(loss=f"{statistics.mean(self.losses[-LOGGED_LOSSES:]):.4f}", refresh=False)
                bar.update()
                if len(self.losses) % self.save_every == 0:
                    self.save()
        self.save()
        return len(self.losses) == steps


def steps_per_second(task: Task, args: argparse.Namespace, most: int | None = None) -> str:
    """Of both implementations, and how many times as fast fastrnn is: new models in turns, the median of pairs.

    It goes on for --compare seconds, or for `most` pairs.
    """
    both = {impl: Training(task, argparse.Namespace(**{**vars(args), "impl": impl})) for impl in PACKAGES}
    pairs: list[dict[str, float]] = []
    end = time.perf_counter() + args.compare
    while len(pairs) < most if most else len(pairs) < 6 or time.perf_counter() < end:
        taken = {}
        seed = int(torch.randint(2**31, ()))
        for impl in both if len(pairs) % 2 else reversed(both):
            torch.manual_seed(seed)  # both see one batch
            start = time.perf_counter()
            both[impl].step()
            taken[impl] = time.perf_counter() - start
        pairs.append(taken)
    pairs = pairs[2:]
    speeds = (f"{impl} {1 / statistics.median(pair[impl] for pair in pairs):.1f}" for impl in PACKAGES)
    ratio = statistics.median(pair["torch"] / pair["fastrnn"] for pair in pairs)
    return f"steps per second: {', '.join(speeds)}; fastrnn is {ratio:.2f} times as fast"


def main(task: Task, doc: str, argv: list[str] | None = None) -> int:
    """Train, measure, show and compare; 1 if a full run did not reach its figure, 130 if it was stopped."""
    args = parse(task, doc, argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    training = Training(task, args)
    if args.resume:
        training.resume()
    if not training.run():
        print(stopped(training.checkpoint))
        return 130
    training.model.eval()
    with torch.no_grad():
        figures = task.measure(training.model)
        for name, value in figures.items():
            print(f"{name}: {value:.3f}")
        for picture in task.show(training.model, args.out):
            print(f"picture: {picture}")
    print(steps_per_second(task, args))
    if args.steps < task.steps:
        return 0
    reached = figures[task.figure] >= task.least
    print(
        f"{'reached' if reached else 'FAILED'}: {task.figure} {figures[task.figure]:.3f}, at least {task.least} wanted"
    )
    return 0 if reached else 1
