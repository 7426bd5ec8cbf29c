"""Peak memory of a training step, forward and backward, against torch.nn's.

Measured as the operating system sees it: how far the resident memory of a fresh process rises during a step above what
it held just before (VmHWM, reset through /proc/self/clear_refs; Linux). torch's own profiler would be easier, but sees
only torch's allocator: not what oneDNN, MKL and our kernels allocate for themselves. So that the peak is what was in
use at once, malloc gives every freed block above 64 KiB back at once, and no huge pages round sizes up.

The step that is measured is the second of its kind: the first one loads code, which counts as resident too. What the
first one leaves behind beside that (oneDNN and MKL keep buffers) is in no peak, so it is given as "kept".
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import machine
import peers
from report import Table, mean
from workloads import CELLS, GRID, Case, build

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024), "MALLOC_TRIM_THRESHOLD_": str(64 * 1024), "MALLOC_ARENA_MAX": "1"}
MIB = 2**20
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE of <linux/prctl.h>
IMPLEMENTATIONS = {"fastrnn": peers.fastrnn_layers, "torch": peers.torch_layers}


def resident(field: str) -> int:
    """Bytes of VmRSS (now), RssAnon (of that, what no file backs) or VmHWM (VmRSS at most, since the last reset)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure_here(implementation: str, cell: str, case: Case) -> dict[str, int]:
    """Bytes that a step of this size needs in this process, and that it keeps."""
    libc = ctypes.CDLL(None)
    libc.prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    IMPLEMENTATIONS[implementation]().prepare(build(cell, Case(2, 1, 8, 8), "training"))()
    step = IMPLEMENTATIONS[implementation]().prepare(build(cell, case, "training"))
    libc.malloc_trim(0)
    at_first = resident("RssAnon")
    step()
    libc.malloc_trim(0)
    kept = resident("RssAnon") - at_first
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    gradients = step()
    peak = resident("VmHWM") - before
    del gradients
    return {"peak": peak, "kept": kept}


def measure(implementation: str, cell: str, case: Case, threads: int) -> dict[str, int]:
    """As :func:`measure_here`, in a process of its own."""
    command = [sys.executable, __file__, "--only", implementation, "--cells", cell, "--cases", str(case)]
    command += ["--threads", str(threads)]
    environment = {**os.environ, **MALLOC}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=GRID, metavar="T,B,I,H", help="(default: grid)")
    parser.add_argument("--only", choices=IMPLEMENTATIONS, help="measure one case in this process: what the others are")
    args = machine.begin(parser)
    if args.only:
        print(json.dumps(measure_here(args.only, args.cells[0], args.cases[0])))
        return
    rows, ratios = [], []
    titles = ["T,B,I,H", "fastrnn", "torch.nn", "fastrnn / torch.nn", "kept by fastrnn", "kept by torch.nn"]
    for cell in args.cells:
        table = Table(f"{cell}: peak of a training step, MiB", titles)
        for case in args.cases:
            ours, theirs = (measure(name, cell, case, args.threads) for name in IMPLEMENTATIONS)
            ratios.append(ours["peak"] / theirs["peak"])
            both = (("", ours), ("other_", theirs))
            measured = {f"{whose}{what}_bytes": one[what] for what in ("peak", "kept") for whose, one in both}
            rows.append({"cell": cell, **asdict(case), **measured, "ratio": ratios[-1]})
            peaks, kept = ([f"{one[what] / MIB:.1f}" for one in (ours, theirs)] for what in ("peak", "kept"))
            table.rows.append([str(case), *peaks, f"{ratios[-1]:.2f}", *kept])
        table.show()
    print(f"\ngeometric mean of fastrnn / torch.nn: {mean(ratios):.2f}")
    machine.save(args, rows)


if __name__ == "__main__":
    main()
