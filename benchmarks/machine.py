"""The machine a figure was measured on, and what every benchmark's command line has."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import results
import torch

import fastrnn
from fastrnn import _native

# What holds each library to an instruction set. All read it once, when they load.
ISA_ENVIRONMENT = {
    "avx2": {
        "FASTRNN_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, and what torch.compile writes
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    }
}


def begin(
    parser: argparse.ArgumentParser, *, threads: int | None = None, several_threads: bool = False
) -> argparse.Namespace:
    """Add the options that every benchmark has, read the command line, set what it says and print the machine.

    `threads` is the default, else one for each core. With `several_threads`, args.threads is a list, and setting them
    is the caller's. args.machine is :func:`facts`, behind the number of threads if there is one.
    """
    threads = threads or len(os.sched_getaffinity(0))
    if several_threads:
        parser.add_argument("--threads", type=int, nargs="+", default=[threads], help=f"counts (default: {threads})")
    else:
        parser.add_argument("--threads", type=int, default=threads, help=f"(default: {threads})")
    parser.add_argument("--isa", choices=ISA_ENVIRONMENT, help="hold us and the peers to this instruction set")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write what was measured there")
    args = parser.parse_args()
    if args.isa:
        _hold_to(args.isa)
    if not several_threads:
        torch.set_num_threads(args.threads)
    args.machine = facts() if several_threads else {"threads": args.threads, **facts()}
    print(describe(args.machine), flush=True)
    return args


def facts() -> dict[str, Any]:
    """What a figure depends on."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "fastrnn": fastrnn.__version__,
        "fastrnn_isa": _native.isa,
        "load": f"{os.getloadavg()[0]:.1f}",  # above 0 before anything runs: someone else uses the cores
    }


def describe(facts: Mapping[str, Any]) -> str:
    """The facts, or a line of results, in words."""
    return (
        f"{facts['processor']}, {facts['cores']} cores ({facts['caches']}), {facts['system']}, torch {facts['torch']} "
        f"({facts['torch_isa']}), fastrnn {facts['fastrnn']} ({facts['fastrnn_isa']}), Python {facts['python']}, "
        f"load {facts['load']}, {facts['date']}, commit {facts['commit'] or 'unknown'}"
    )


def save(args: argparse.Namespace, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows and the machine's facts, if the command line names a file."""
    if args.csv:
        results.write(args.csv, args.machine, rows)


def _hold_to(isa: str) -> None:
    """Begin this program again with the environment that the libraries should have found when they loaded."""
    wanted = ISA_ENVIRONMENT[isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})


def _commit() -> str:
    """Of the sources, with "-dirty" where they were changed since; empty where git does not say."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> str:
    """Each cache that the first core can use for data; empty where the system does not say."""
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches.append(f"L{level} {size.removesuffix('K')} KiB")
    return ", ".join(caches)
