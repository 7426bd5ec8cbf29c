"""The items of a step, in a process of its own: python -m first.worker TASK JOURNAL SECONDS

It goes on behind what processes before it have recorded. After an item that failed it leaves, to be started again: an
error may have taken the GPU's context with it, or what fastrnn thinks of its kernels.
"""

import importlib
import os
import sys
import time
import traceback
from dataclasses import asdict

import torch

from first.journal import Journal, Outcome
from first.steps import ROOT

# Where a task finds what it imports, beside fastrnn: both folders have a module `machine`.
FOLDERS = {
    "versions": (),
    "fit": ("benchmarks",),
    "timing": ("benchmarks",),
    "parity": ("tests", "tests/gpu"),
    "together": ("tests", "tests/gpu"),
}
REHEARSE = os.environ.get("FASTRNN_REHEARSE") == "1"


def attempt(run, item):
    try:
        return run(item)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        return Outcome("failed", f"{type(error).__name__}: {lines[0]}")


def load(name):
    sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS[name]]
    if REHEARSE and FOLDERS[name]:
        sys.path += [str(ROOT / "tests" / "cuda")]
        importlib.import_module("emulated_library").install()
    return importlib.import_module(f"first.{name}")


def main():
    name, path, seconds = sys.argv[1:]
    end = time.monotonic() + float(seconds)
    journal = Journal(path)
    task = load(name)
    if REHEARSE:  # where threads would wait for their turn on a core
        torch.set_num_threads(1)
    journal.write(items=task.items(REHEARSE))
    print(f"torch.manual_seed({torch.seed()})")
    for item in journal.to_do():
        if time.monotonic() > end:
            break
        begin = time.monotonic()
        journal.write(begin=item)
        outcome = attempt(task.run, item)
        journal.write(end=item, seconds=round(time.monotonic() - begin, 3), **asdict(outcome))
        if outcome.status == "failed":
            sys.exit(1)


if __name__ == "__main__":
    main()
