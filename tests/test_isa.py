"""The kernels again on every lower instruction set, and with memory that starts out as garbage.

FASTRNN_ISA is read when the extension loads, so each takes a process of its own. glibc's MALLOC_PERTURB_ fills what
malloc hands out, which is where torch's CPU allocator takes its memory: a kernel that reads what nobody wrote then
computes with 3e38. (torch's own fill_uninitialized_memory does not reach the allocator that the ops use.)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from session_seed import SESSION_SEED
from test_explain import ISAS, best_isa

TESTS = Path(__file__).parent
HERE = ISAS[: ISAS.index(best_isa()) + 1]

# Memory from malloc holds this byte; f32 of such bytes is 3.4e38, f64 1.4e306.
GARBAGE_BYTE = 0x7F


def in_process(*command, isa, **env):
    environment = os.environ | {"FASTRNN_TEST_SEED": str(SESSION_SEED), "FASTRNN_ISA": isa, **env}
    return subprocess.run(
        [sys.executable, *command],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("isa", HERE)
def test_kernels(isa):
    perturb = str(GARBAGE_BYTE ^ 0xFF)  # malloc fills with the complement, free with the byte itself
    done = in_process(
        "-m", "pytest", "-q", "-x", "-m", "isa", "-p", "no:cacheprovider", str(TESTS), isa=isa, MALLOC_PERTURB_=perturb
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500
    assert "skipped" not in done.stdout.splitlines()[-1]


@pytest.mark.isa
def test_memory_starts_as_garbage():
    """That the processes started above do get garbage; alone, without the variable, there is nothing to see."""
    if "MALLOC_PERTURB_" in os.environ:
        for count in (5, 1000, 10_000_000):
            assert (torch.empty(count, dtype=torch.uint8) == GARBAGE_BYTE).float().mean() > 0.9


@pytest.mark.parametrize("isa", HERE)
def test_explain_names_the_forced_isa(isa):
    code = "import torch, fastrnn; print(fastrnn.explain(fastrnn.GRU(3, 9), torch.randn(4, 3)).rows[0].isa)"
    done = in_process("-c", code, isa=isa)
    assert done.stdout.strip() == isa, done.stderr


def test_unknown_isa_is_refused_at_import():
    done = in_process("-c", "import fastrnn", isa="mmx")
    assert done.returncode != 0
    assert "FASTRNN_ISA=mmx" in done.stderr
    for isa in HERE:
        assert isa in done.stderr.splitlines()[-1]
