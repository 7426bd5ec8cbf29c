"""What each of two gloo processes runs for test_distributed.py; a file of its own, as spawned processes import it.

test_several_machines.py has its processes train in the same way.
"""

import datetime
import os
import sys

import own_cells
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastrnn

OWN_LAYERS = ("Peephole", "Readout")
WORLD = 2
STEPS = 3
BATCH = 6
TIMEOUT = datetime.timedelta(seconds=60)


class Model(nn.Module):
    """A layer whose output and final state both count, with a head on it."""

    def __init__(self, layer):
        super().__init__()
        kinds = own_cells if layer in OWN_LAYERS else fastrnn
        self.layer = getattr(kinds, layer)(5, 7, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(14, 3)

    def forward(self, input, lengths):
        output, final = self.layer(input, lengths=lengths)
        if isinstance(final, tuple):
            final = final[0] + final[1]
        return self.head(output).mean(1) + final.sum((0, 2)).unsqueeze(1)


def make(layer):
    torch.manual_seed(1)
    return Model(layer).double()


def batches():
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        input = torch.randn(BATCH, 9, 5, generator=generator, dtype=torch.float64)
        yield input, torch.randint(0, 10, (BATCH,), generator=generator)


def train(model, rows, full=lambda tensor: tensor, optimizer=None):
    """Steps on those rows of each batch: gradients of the first, and the weights after the last."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    gradients = None
    for input, lengths in batches():
        optimizer.zero_grad()
        model(input[rows], lengths[rows]).pow(2).mean().backward()
        if gradients is None:
            gradients = {name: full(p.grad).detach().clone() for name, p in model.named_parameters()}
        optimizer.step()
    return gradients, {name: full(p).detach().clone() for name, p in model.named_parameters()}


def assert_same(results, expected):
    """Two of train()'s results, the first maybe of a wrapped model."""
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close({name.removeprefix("module."): value for name, value in ours.items()}, theirs)
        assert all(value.abs().max() > 0 for value in ours.values())


def wrap_ddp(model):
    return DistributedDataParallel(model), lambda tensor: tensor


def wrap_fsdp2(model):
    mesh = init_device_mesh("cpu", (WORLD,))
    fully_shard(model.layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(p.to_local().numel() < p.numel() for p in model.layer.parameters()), "nothing was sharded"
    return model, lambda tensor: tensor.full_tensor()


WRAPPERS = {"ddp": wrap_ddp, "fsdp2": wrap_fsdp2}


def share(rank):
    """The rows of each batch that are this rank's."""
    return slice(rank * BATCH // WORLD, (rank + 1) * BATCH // WORLD)


def leave():
    """End this process, but not by the interpreter's end.

    A gloo thread that lets go of its last tensor meanwhile is ended within a destructor (PyEval_AcquireThread,
    pthread_exit), and std::terminate ends the process, once in some 50 runs of a busy machine.
    """
    sys.stdout.flush()
    os._exit(0)


def work(rank, folder, layers):
    """Train each layer under each wrapper on this rank's half of the rows, and leave the results in `folder`."""
    torch.set_num_threads(1)
    init = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=init, rank=rank, world_size=WORLD, timeout=TIMEOUT)
    for layer in layers:
        for wrapper, wrap in WRAPPERS.items():
            model, full = wrap(make(layer))
            torch.save(train(model, share(rank), full), f"{folder}/{wrapper}-{layer}-{rank}.pt")
    dist.destroy_process_group()
    leave()
