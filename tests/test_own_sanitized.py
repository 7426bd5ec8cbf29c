"""Cells of one's own under AddressSanitizer and UndefinedBehaviorSanitizer: their libraries alone are compiled with
them, but the memory that they are given is the sanitizer's, as all of the process's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from session_seed import SESSION_SEED

SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"

PROGRAM = """
import itertools, sys
import torch
import fastrnn
from fastrnn._ops.cells import missing_kernels


@fastrnn.cell(gates=3, states=("h", "c"), weights=("w",), output="y")
def Dense(x, r, h, c, w):
    c = torch.sigmoid(x[0] + r[0]) * c + torch.tanh(x[1] * r[1]) + w
    return torch.exp(-c * c), torch.sigmoid(x[2] + r[2]) * torch.tanh(c), c


@fastrnn.cell(gates=("f", "a"), recurrent="diagonal", input=True)
def Elementwise(input, x, r, h):
    f = torch.sigmoid(x.f + r.f)
    return f * h + (1 - f) * torch.nn.functional.softplus(x.a) + input


torch.manual_seed(int(sys.argv[1]))
dtype = getattr(torch, sys.argv[2])
for threads, layer, hidden_size, size in itertools.product((1, 2), (Dense, Elementwise), (1, 5, 33), (5, 64)):
    torch.set_num_threads(threads)
    module = layer(size, hidden_size, num_layers=2, bidirectional=True, dtype=dtype)
    assert missing_kernels(module.mode, "cpu", dtype) == ""
    for steps, batch in ((1, 1), (7, 3), (20, 17)):
        x = torch.randn(steps, batch, size, dtype=dtype, requires_grad=True)
        lengths = torch.randint(0, steps + 1, (batch,))
        resets = torch.rand(steps, batch) < 0.3
        module(x)[0].sum().backward()
        module(x, lengths=lengths, resets=resets)[0].sum().backward()
        with torch.no_grad():
            module(x)
print("done")
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_own_cells_under_sanitizers(dtype, tmp_path):
    compiler = shutil.which("g++")
    runtime = (
        compiler
        and subprocess.run(
            [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not runtime or not Path(runtime).is_absolute():
        pytest.skip("no g++ with AddressSanitizer's library")
    thrower = subprocess.run(  # without it the sanitizer does not know how exceptions are thrown
        [compiler, "-print-file-name=libstdc++.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    script = tmp_path / "cells.py"  # a file: the cells' lines are looked up
    script.write_text(PROGRAM)
    environment = {
        **os.environ,
        "CXX": f"{compiler} {SANITIZERS}",
        "LD_PRELOAD": f"{runtime} {thrower}",
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
    }
    command = [sys.executable, script, str(SESSION_SEED), dtype]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "done" in done.stdout
