"""The machine a figure was measured on, and what every benchmark's command line has."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

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
    is the caller's. args.machine is :func:`facts`.
    """
    threads = threads or len(os.sched_getaffinity(0))
    if several_threads:
        parser.add_argument("--threads", type=int, nargs="+", default=[threads], help=f"counts (default: {threads})")
    else:
        parser.add_argument("--threads", type=int, default=threads, help=f"(default: {threads})")
    parser.add_argument("--isa", choices=ISA_ENVIRONMENT, help="hold us and the peers to this instruction set")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured there")
    args = parser.parse_args()
    if args.isa:
        _hold_to(args.isa)
    if not several_threads:
        torch.set_num_threads(args.threads)
    args.machine = facts()
    print(describe(args.machine), flush=True)
    return args


def facts() -> dict[str, Any]:
    """What a figure depends on, beside the code."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "fastrnn": fastrnn.__version__,
        "fastrnn_isa": _native.isa,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],  # above 0 before anything runs: someone else uses the cores
        "date": datetime.date.today().isoformat(),
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts in a line."""
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in facts["caches"].items())
    return (
        f"{facts['processor']}, {facts['cores']} cores ({caches}), {facts['system']}, torch {facts['torch']} "
        f"({facts['torch_isa']}), fastrnn {facts['fastrnn']} ({facts['fastrnn_isa']}), Python {facts['python']}, "
        f"load {facts['load']:.1f}, {facts['date']}"
    )


def save(args: argparse.Namespace, **content: Any) -> None:
    """Write the machine's facts and `content` as JSON, if the command line names a file."""
    if args.json:
        write(args.json, json.dumps({"machine": args.machine, **content}, indent=1) + "\n")


def write(path: Path, text: str) -> None:
    """Write a result and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")


def _hold_to(isa: str) -> None:
    """Begin this program again with the environment that the libraries should have found when they loaded."""
    wanted = ISA_ENVIRONMENT[isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted})


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, int]:
    """Bytes of each cache that the first core can use for data, by name; empty where the system does not say."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = int(size.removesuffix("K")) * 1024
    return caches
