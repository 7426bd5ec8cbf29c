"""Compiles what the last tests of a session want while its first ones run: python build_ahead.py [--quick] MODULE...

A module whose tests wait for minutes of compilation has a function build_ahead(quick), which `make test` asks for what
its own tests want. Tests of one process use one core of two; what is built here takes what they leave, by the lowest
priority. The tests' own fixtures then find it up to date, or wait for it; they also say what went wrong.
"""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from session_seed import SESSION_SEED

HERE = Path(__file__).resolve().parent
# In the order of their tests. They run after all others.
MODULES = (
    "test_cuda_emulated_layers",
    "test_cuda_emulated_extras",
    "test_gpu_first_run",
    "test_emulation",
    "test_cuda_emulation",
    "test_cuda_compile",
)


def order(item):
    """When a test's turn comes: those of MODULES last."""
    return 1 + MODULES.index(item.path.stem) if item.path.stem in MODULES else 0


def start(items, quick):
    """The process that builds for these tests; None where none of them wants it, or no others run meanwhile."""
    wanted = dict.fromkeys(item.path.stem for item in items if order(item) > 0)
    if not wanted or all(order(item) > 0 for item in items):
        return None
    command = [sys.executable, __file__, *["--quick"] * quick, *sorted(wanted, key=MODULES.index)]
    quiet = subprocess.DEVNULL
    # In a group of its own, to be stopped with its compilers, but in the same session: across sessions Linux shares the
    # cores evenly, whatever the priorities.
    env = os.environ | {"FASTRNN_TEST_SEED": str(SESSION_SEED)}  # which draws some of what is built
    return subprocess.Popen(command, env=env, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=os.setpgrp)


@contextlib.contextmanager
def paused(process):
    """While a test of several threads runs: they meet by yielding, and who yields to a compiler waits for its slice."""
    if not process:
        yield
        return
    send(process, signal.SIGSTOP)
    try:
        yield
    finally:
        send(process, signal.SIGCONT)


def send(process, number):
    """To the compilers, too; nothing if they are done."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def main():
    os.nice(19)
    sys.path += [str(HERE), str(HERE / "cuda"), str(HERE / "cuda" / "emulation")]
    modules = [name for name in sys.argv[1:] if name != "--quick"]
    for name in modules:
        build_ahead = getattr(importlib.import_module(name), "build_ahead", None)
        if build_ahead:
            build_ahead(quick="--quick" in sys.argv)


if __name__ == "__main__":
    main()
