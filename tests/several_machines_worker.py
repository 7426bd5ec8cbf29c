"""What each process of test_several_machines.py runs, started by torchrun: a part of PARTS and its folder.

How to wrap a model and how to write a checkpoint stand in docs/several_machines.md, and are taken from there.
"""

import os
import signal
import sys
from pathlib import Path

import distributed_worker as worker
import torch
import torch.distributed as dist

ROOT = Path(__file__).parent.parent
LAYER = "LSTM"
STEPS, SAVE_EVERY, KILLED_AFTER = 12, 5, 8


def page():
    """The names that the page's blocks define."""
    from test_docs import blocks

    names = {"__name__": "page"}
    for block in blocks(ROOT / "docs" / "several_machines.md"):
        exec(compile(block, "several_machines.md", "exec"), names)
    return names


def momentum(model):
    """An optimizer with a state. It is linear in the gradients: no rounding grows where one of them is nearly 0."""
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def wrap_and_save(folder):
    """Train under each wrapper, write a checkpoint, and train on from there."""
    names = page()  # whose last block is one process's
    dist.init_process_group("gloo", timeout=worker.TIMEOUT)
    rank = dist.get_rank()
    for wrap in ("replicate", "shard"):
        model = names[wrap](worker.make(LAYER))
        optimizer = momentum(model)
        results = []
        for part in ("before", "after"):
            if part == "after":
                names["save"](model, optimizer, f"{folder}/{wrap}")
            results.append(worker.train(model, worker.share(rank), whole, optimizer))
        held = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
        torch.save((results, held), f"{folder}/{wrap}-{rank}.pt")
    dist.destroy_process_group()


def example(folder, kill=False):
    """examples/char_ddp.py with a tiny model; its second process may die once, while it writes a checkpoint."""
    sys.path.insert(0, str(ROOT / "examples"))
    import char_ddp

    class Together(char_ddp.Together):
        save_every = SAVE_EVERY

        def step(self):
            super().step()
            unfinished = self.checkpoint / str(KILLED_AFTER)
            if kill and dist.get_rank() == 1 and len(self.losses) == KILLED_AFTER and not unfinished.exists():
                unfinished.mkdir()
                (unfinished / "__1_0.distcp").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    char_ddp.Together = Together
    char_ddp.HIDDEN_SIZE, char_ddp.LENGTH, char_ddp.PAIRS = 8, 16, 3
    sys.argv[1:] = ["--out", folder, "--steps", str(STEPS), "--threads", "1"]
    assert char_ddp.main() == 0


def killed_example(folder):
    example(folder, kill=True)


PARTS = {part.__name__: part for part in (wrap_and_save, example, killed_example)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    part, folder = sys.argv[1:]
    PARTS[part](folder)
    worker.leave()
