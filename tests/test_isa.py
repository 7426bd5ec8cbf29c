"""The kernels again on every lower instruction set.

FASTRNN_ISA is read when the extension loads, so each takes a process of its own. Wherever tests of this group run,
memory starts out as garbage.
"""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import garbage
import pytest
import torch
from session_seed import SESSION_SEED
from test_explain import ISAS, best_isa

TESTS = Path(__file__).parent
HERE = ISAS[: ISAS.index(best_isa()) + 1]
OTHER_PACKAGES = ("test_onnx.py", "test_opacus.py")  # no test of kernels; they skip as a whole without these packages


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


def run_kernels(isa, marked):
    options = ["-q", "-x", "-m", marked, "-p", "no:cacheprovider"]
    options += [f"--ignore={TESTS / name}" for name in OTHER_PACKAGES]
    done = in_process("-m", "pytest", *options, str(TESTS), isa=isa)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500
    assert "skipped" not in done.stdout.splitlines()[-1]


# This process itself has the last one. Of the others, make test runs the lowest.
LOWER = [pytest.param(isa, marks=() if isa == HERE[0] else pytest.mark.thorough) for isa in HERE[:-1]]


@pytest.mark.parametrize("isa", LOWER)
def test_kernels(isa):
    run_kernels(isa, "isa and not thorough")


@pytest.mark.thorough
@pytest.mark.skipif(len(HERE) == 1, reason="no lower instruction set")
def test_kernels_thoroughly():
    """On one of them, which a session draws: all of it takes minutes on each."""
    run_kernels(random.Random(SESSION_SEED).choice(HERE[:-1]), "isa and thorough")


@pytest.mark.isa
@pytest.mark.skipif(garbage.MALLOPT is None, reason="only glibc's malloc fills memory")
def test_memory_starts_as_garbage():
    for count in (5, 1000, 10_000_000):
        assert (torch.empty(count, dtype=torch.uint8) == garbage.BYTE).float().mean() > 0.9


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
