"""DDP and FSDP2 with two processes: gradients and weights are the single process's.

Processes meet at a file and talk over gloo: no port of the machine is taken.
"""

import time

import distributed_worker as worker
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from cases import LAYERS

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed"),
]

ALL_LAYERS = (*LAYERS, *worker.OWN_LAYERS)
SECONDS = 120  # some 15 suffice; a deadlock must not hold up the suite


@pytest.fixture(scope="module")
def folder(tmp_path_factory, kept_cells):
    """Where two processes, started once for all tests of this file, left their results."""
    folder = tmp_path_factory.mktemp("ranks")
    arguments = str(folder), ALL_LAYERS
    processes = torch.multiprocessing.spawn(worker.work, arguments, nprocs=worker.WORLD, join=False)
    deadline = time.monotonic() + SECONDS
    try:
        # True once all have ended well; raises what one of them raised.
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, f"the processes did not end within {SECONDS} seconds"
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.kill()
    return folder


@pytest.mark.parametrize("layer", ALL_LAYERS)
@pytest.mark.parametrize("wrapper", worker.WRAPPERS)
def test_two_processes_train_as_one(folder, layer, wrapper):
    expected = worker.train(worker.make(layer), slice(None))
    for rank in range(worker.WORLD):
        results = torch.load(folder / f"{wrapper}-{layer}-{rank}.pt")
        worker.assert_same(results, expected)
