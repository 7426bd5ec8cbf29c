"""The character model on several processes, with DistributedDataParallel.

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 .venv/bin/torchrun --nproc-per-node 2 --max-restarts 3 examples/char_ddp.py

Every process trains on its share of each batch, gradients are averaged, on NCCL where there is a GPU for each process,
else on gloo. Then the first process trains the same model alone on whole batches: the two held-out losses must agree.

Whoever starts it again, torchrun after a process died or you, it goes on from the last whole checkpoint in --out, which
several machines must share; the number of processes may be another. To begin anew, delete the checkpoints.
docs/several_machines.md says what the variable is for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from char_rnn import CharModel, Text, cross_entropy, held_out_loss
from running import StopOnSignal, Task, Training, parse, steps_per_second, stopped
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

BATCH, LENGTH, HIDDEN_SIZE = 32, 64, 128
AGREEMENT = 0.01  # nats; rounding differs, and training lets it grow
PAIRS = 20  # steps of each implementation, for the comparison


class Characters(Task):
    """One process's part: every process draws the same windows and takes its share of them."""

    name = "char_ddp"
    steps = 300
    figure = "held-out loss, nats a character"

    def __init__(self, rank: int, processes: int, device: torch.device) -> None:
        self.rank, self.processes, self.device = rank, processes, device
        self.text = Text(1, LENGTH)

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
    """All processes take part in every step and checkpoint, and stop after the same step."""

    save_every = 50

    def __init__(self, task: Characters, args: argparse.Namespace) -> None:
        super().__init__(task, args)
        self.speaks = task.rank == 0
        self.checkpoint = args.out / f"{task.name}_{args.impl}_{args.steps}_steps_seed_{args.seed}"
        self.saved = 0  # steps

    def step(self) -> None:
        """The loss is that of the whole batch, the same everywhere."""
        super().step()
        loss = torch.tensor(self.losses[-1], device=self.task.device)
        dist.all_reduce(loss)
        self.losses[-1] = loss.item() / self.task.processes

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "losses": self.losses, "generator": torch.get_rng_state()}

    def save(self) -> None:
        """Each checkpoint is a folder, so that the one before is whole until this one is."""
        if self.saved == len(self.losses):
            return
        self.saved = len(self.losses)
        folder = self.checkpoint / str(self.saved)
        dcp.save(self.state(), checkpoint_id=folder)
        if self.task.rank == 0:
            for other in set(self.checkpoint.iterdir()) - {folder}:
                shutil.rmtree(other)

    def resume(self) -> None:
        """From the last whole checkpoint, if there is one."""
        # One process looks: what another machine sees of the shared folder may be some seconds old.
        found = [last_whole(self.checkpoint) if self.task.rank == 0 else None]
        dist.broadcast_object_list(found)
        if found[0] is None:
            return
        state = self.state()
        dcp.load(state, checkpoint_id=found[0])
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        self.losses = state["losses"]
        self.saved = len(self.losses)
        torch.set_rng_state(state["generator"])
        if self.speaks:
            print(f"going on after step {self.saved}")

    def stopping(self, stop: StopOnSignal) -> bool:
        flag = torch.tensor(float(stop.requested), device=self.task.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)


def last_whole(folder: Path) -> Path | None:
    """The checkpoint of the most steps; one that was being written when a process died has no metadata yet."""
    whole = (metadata.parent for metadata in folder.glob("*/.metadata"))
    return max(whole, key=lambda checkpoint: int(checkpoint.name), default=None)


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


def train(args: argparse.Namespace, device: torch.device) -> int:
    rank, processes = dist.get_rank(), dist.get_world_size()
    if BATCH % processes:
        sys.exit(f"char_ddp: a batch of {BATCH} cannot be shared evenly among {processes} processes")
    task = Characters(rank, processes, device)
    torch.set_num_threads(args.threads or max(1, (os.cpu_count() or 1) // processes))
    args.out.mkdir(parents=True, exist_ok=True)
    training = Together(task, args)
    training.resume()
    if args.resume and not training.losses:
        sys.exit(f"char_ddp: nothing to resume: there is no whole checkpoint in {training.checkpoint}")
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


def main() -> int:
    args = parse(Characters, __doc__, None)
    with process_group() as device:
        status = train(args, device)
        dist.barrier()
    return status


if __name__ == "__main__":
    sys.exit(main())
