"""Where the tests of this folder run: on a GPU, or with FASTRNN_REHEARSE=1 on the CPU, to try the tests themselves."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import fastrnn

ROOT = Path(__file__).resolve().parents[2]
REHEARSE = os.environ.get("FASTRNN_REHEARSE") == "1"

needs_gpu = pytest.mark.skipif(REHEARSE, reason="the CPU has no streams, graphs or memory of its own")


def missing():
    """Why nothing can run here, or None."""
    if REHEARSE:
        return None
    if not torch.cuda.is_available():
        return "torch finds no GPU (FASTRNN_REHEARSE=1 tries these tests on the CPU)"
    if not fastrnn._native.cuda_built:
        return "fastrnn was built without CUDA: python3 setup.py build_ext --inplace, where nvcc is found"
    return None


def the_device():
    return torch.device("cpu") if REHEARSE else torch.device("cuda", torch.cuda.current_device())


def sized(real, rehearsed):
    """A size that matters only on a GPU."""
    return rehearsed if REHEARSE else real


def is_hopper():
    """An H100 or H200, about whose capacity the tests make claims."""
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return (facts.major, facts.minor) == (9, 0) and facts.multi_processor_count >= 128


def need_free_memory(gib):
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / 2**30
    if free < gib:
        pytest.skip(f"takes {gib} GiB of the GPU's memory, {free:.0f} are free")


def run_script(script, *args, timeout):
    """Python in a process of its own: its asserts, a crash or a hang fail the test and nothing else."""
    paths = [str(ROOT), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), *map(str, args)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"hangs: not done after {timeout} s")
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
