"""The kernels again on every lower instruction set.

FASTRNN_ISA is read when the extension loads, so each takes a process of its own. Wherever tests of this group run,
memory starts out as garbage.
"""

import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
    return in_process("-m", "pytest", *options, str(TESTS), isa=isa)


def kernel_tests():
    """This process itself has the last instruction set. Of the others, make test runs the lowest; for what is thorough,
    which takes minutes on each, a session draws one."""
    for isa in HERE[:-1]:
        marks = () if isa == HERE[0] else pytest.mark.thorough
        yield pytest.param(isa, "isa and not thorough", marks=marks, id=isa)
    if HERE[:-1]:
        drawn = random.Random(SESSION_SEED).choice(HERE[:-1])
        yield pytest.param(drawn, "isa and thorough", marks=pytest.mark.thorough, id="thorough")


@pytest.fixture(scope="module")
def kernel_runs(request):
    """Those that this session asks for, two at a time: each has one thread most of the time."""
    items = [
        item for item in request.session.items if item.path == request.path and item.originalname == "test_kernels"
    ]
    asked = [(item.callspec.params["isa"], item.callspec.params["marked"]) for item in items]
    with ThreadPoolExecutor(2) as pool:
        yield {each: pool.submit(run_kernels, *each) for each in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("isa", "marked"), list(kernel_tests()))
def test_kernels(kernel_runs, isa, marked):
    done = kernel_runs[isa, marked].result()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500
    assert "skipped" not in done.stdout.splitlines()[-1]


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
