"""Marks this folder's tests `gpu`, skips them where they cannot run, and puts torch's switches back."""

import os
from pathlib import Path

import machine
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.filterwarnings("error:fastrnn. on this"))  # a kernel that failed verification
    why = machine.missing()
    if not why or not ours:
        return
    if torch.cuda.is_available() and config.getoption("markexpr") == "gpu":
        raise pytest.UsageError(why)  # a check of the GPU that checks nothing must not pass
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def device():
    return machine.the_device()


@pytest.fixture(autouse=True)
def _settings_of_gpu_tests(_torch_settings_restored):
    """References are computed on the CPU, with all its threads; and TF32 is as torch has it when nobody asks."""
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.backends.cudnn.allow_tf32 = True
    if torch.cuda.is_initialized():
        torch.cuda.set_sync_debug_mode("default")
