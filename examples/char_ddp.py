"""The character model on several processes, with DistributedDataParallel.

    .venv/bin/torchrun --nproc-per-node 2 examples/char_ddp.py

Every process trains on its share of each batch, gradients are averaged, on NCCL where there is a GPU for each process,
else on gloo. Then the first process trains the same model alone on whole batches: the two held-out losses must agree.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
import torch.distributed as dist
from char_rnn import CharModel, Text, cross_entropy, held_out_loss
from running import StopOnSignal, Task, Training, parse, steps_per_second, stopped
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

BATCH, LENGTH, HIDDEN_SIZE = 32, 64, 128
AGREEMENT = 0.01  # nats; rounding differs, and training lets it grow
PAIRS = 20  # steps of each implementation, for the comparison


class Characters(Task):
    """One process's part: every process draws the same windows and takes its share of them."""

    steps = 300
    figure = "held-out loss, nats a character"

    def __init__(self, rank: int, processes: int, device: torch.device) -> None:
        self.rank, self.processes, self.device = rank, processes, device
        self.text = Text(1, LENGTH)
        self.name = f"char_ddp_{rank}_of_{processes}"

    def build(self, package: ModuleType) -> nn.Module:
        model = CharModel(package.LSTM, len(self.text.vocabulary), HIDDEN_SIZE, 1).to(self.device)
        return DistributedDataParallel(model) if self.processes > 1 else model

    def loss(self, model: nn.Module) -> Tensor:
        stream = self.text.streams[:, 0]
        begins = torch.randint(len(stream) - LENGTH, (BATCH,))[self.rank :: self.processes].tolist()
        windows = torch.stack([stream[begin : begin + LENGTH + 1] for begin in begins], 1).to(self.device)
        return cross_entropy(model(windows[:-1])[0], windows[1:])

    def measure(self, model: nn.Module) -> dict[str, float]:
        return {self.figure: held_out_loss(getattr(model, "module", model).cpu(), self.text)}

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        return []


class Together(Training):
    """All processes stop after the same step."""

    def stopping(self, stop: StopOnSignal) -> bool:
        flag = torch.tensor(float(stop.requested), device=self.task.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


def torchrun(processes: int) -> list[str]:
    """How to start so many processes with this Python, whether or not its folder is on the path."""
    return [str(Path(sys.executable).with_name("torchrun")), "--nproc-per-node", str(processes)]


@contextlib.contextmanager
def process_group() -> Iterator[torch.device]:
    """The group that torchrun set up, and this process's device."""
    if "RANK" not in os.environ:
        sys.exit(f"char_ddp: start it with: {shlex.join([*torchrun(2), *sys.argv])}")
    local = int(os.environ["LOCAL_RANK"])
    on_gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    if on_gpus:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpus else "gloo")
    try:
        yield torch.device("cuda", local) if on_gpus else torch.device("cpu")
    finally:
        dist.destroy_process_group()


def main(device: torch.device) -> int:
    rank, processes = dist.get_rank(), dist.get_world_size()
    if BATCH % processes:
        sys.exit(f"char_ddp: a batch of {BATCH} cannot be shared evenly among {processes} processes")
    task = Characters(rank, processes, device)
    args = parse(task, __doc__, None)
    torch.set_num_threads(args.threads or max(1, (os.cpu_count() or 1) // processes))
    args.out.mkdir(parents=True, exist_ok=True)
    training = Together(task, args)
    training.speaks = rank == 0
    if args.resume:
        training.resume()
    if not training.run():
        if rank == 0:
            print(stopped(training.checkpoint, [*torchrun(processes), *sys.argv]))
        return 130
    speeds = steps_per_second(task, args, most=PAIRS)  # the same number in every process
    if rank != 0:
        return 0
    return judge(task, training, args, speeds)


def judge(task: Characters, training: Training, args: argparse.Namespace, speeds: str) -> int:
    """Train alone what all trained together, and compare."""
    alone = Training(Characters(0, 1, task.device), args)
    if not alone.run():
        return 130
    losses = [task.measure(model)[task.figure] for model in (training.model, alone.model)]
    print(f"{task.figure}: {losses[0]:.4f} with {task.processes} processes, {losses[1]:.4f} alone")
    print(speeds)
    agree = abs(losses[0] - losses[1]) <= AGREEMENT
    print(f"{'reached' if agree else 'FAILED'}: at most {AGREEMENT} between them")
    return 0 if agree else 1


if __name__ == "__main__":
    with process_group() as own_device:
        status = main(own_device)
        dist.barrier()
    sys.exit(status)
