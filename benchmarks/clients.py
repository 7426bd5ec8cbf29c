"""Trains models of projects from PyPI with torch.nn's layers and with fastrnn's: are the losses equal, and the times?

    make clients

The projects are installed into build/clients/, beside the torch that fastrnn was built with, and run as they are, but
for `fastrnn.convert` or `fastrnn.patched`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import machine
import torch
from report import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "clients"
ENVIRONMENT = ROOT / "build" / "clients"
CLIENTS = {
    "recurrent_ppo": ("torch", "fastrnn", "resets"),
    "deepar": ("torch", "fastrnn"),
    "torchrl_lstm": ("torch", "fastrnn"),
    "forecasting_rnn": ("torch", "fastrnn"),
    "neural_forecast": ("torch", "fastrnn"),
    "tokenizer": ("torch", "fastrnn"),
}
# Rounding differs, and training lets the difference grow.
RELATIVE, ABSOLUTE = 1e-3, 1e-6


def install() -> Path:
    """The environment's Python; made anew when the requirements have changed."""
    python = ENVIRONMENT / "bin" / "python"
    done = ENVIRONMENT / "installed"
    wanted = f"torch=={torch.__version__.split('+')[0]}\n{(FOLDER / 'requirements.txt').read_text()}"
    if done.exists() and done.read_text() == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
    requirements = ENVIRONMENT / "requirements.txt"
    requirements.write_text(wanted)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    done.write_text(wanted)
    return python


def measure(python: Path, client: str, impl: str, threads: int) -> dict[str, Any]:
    """A run of one client: its losses and seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [python, FOLDER / f"{client}.py", "--impl", impl, "--threads", str(threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ENVIRONMENT)
    if done.returncode:
        sys.exit(f"clients: {client} --impl {impl} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def difference(losses: list[float], wanted: list[float]) -> float:
    """The largest, as a share of what is tolerated."""
    if len(losses) != len(wanted) or not losses:
        return math.inf
    return max(abs(a - b) / (ABSOLUTE + RELATIVE * abs(b)) for a, b in zip(losses, wanted, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each implementation, in turns (default: 3)")
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    args = machine.begin(parser)
    python = install()
    table = Table(
        f"Training, {args.threads} threads",
        ["", "losses", "largest difference / tolerated", "torch.nn, s", "ours, s", "times as fast"],
    )
    rows, equal = [], True
    for client in args.clients:
        runs = [
            {impl: measure(python, client, impl, args.threads) for impl in CLIENTS[client]} for _ in range(args.rounds)
        ]
        for impl in CLIENTS[client][1:]:
            apart = difference(runs[0][impl]["losses"], runs[0]["torch"]["losses"])
            ratio = statistics.median(run["torch"]["seconds"] / run[impl]["seconds"] for run in runs)
            seconds = {name: statistics.median(run[name]["seconds"] for run in runs) for name in ("torch", impl)}
            name = f"{client}, {impl}" if impl != "fastrnn" else client
            count = len(runs[0][impl]["losses"])
            times = (f"{seconds['torch']:.2f}", f"{seconds[impl]:.2f}", f"{ratio:.2f}")
            table.rows.append([name, str(count), f"{apart:.3f}", *times])
            what = {"client": client, "impl": impl, "difference": apart}
            rows.append({**what, "seconds": seconds[impl], "other_seconds": seconds["torch"], "ratio": ratio})
            equal = equal and apart <= 1
    table.show()
    machine.save(args, rows)
    print("the losses are equal" if equal else "FAILED: losses differ by more than is tolerated")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
