"""Trains models of projects from PyPI with torch.nn's layers and with fastrnn's: are the results equal, and the times?

    make clients

Each file of clients/ is a project. It gets an environment of its own in build/clients/, with what the file's first
lines ask for and the torch that fastrnn was built with, and runs as it is, but for `fastrnn.convert` or
`fastrnn.patched`. What cannot be installed here, or fails with torch.nn's layers, too, is told and is no failure.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import torch
from report import Table
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "clients"
BUILD = ROOT / "build" / "clients"
# Python's metadata for scripts (PEP 723). Of what they may hold, clients have the one list.
METADATA = re.compile(r"^# /// script\n# dependencies = (?P<list>\[.*?\])\n# ///$", re.DOTALL | re.MULTILINE)

# What is tolerated of losses: rounding differs, and training lets the difference grow.
RELATIVE, ABSOLUTE = 1e-3, 1e-6
# Of outputs and gradients, as a share of a tensor's root mean square. Where the exact gradient is 0, as of a bias
# before a normalisation, there is rounding alone: there the share is of all tensors' root mean square, times SMALL.
SHARE, SMALL = 1e-4, 1e-2
# Of each besides: so many times what lies between torch.nn with oneDNN and without. Some losses, CTC's first, and some
# trainings make much of rounding.
OWN = 10
AGAIN = "torch without oneDNN"

EQUAL, UNINSTALLABLE, TORCHS_FAILURE = "equal", "cannot be installed", "fails with torch.nn, too"


class UnfitError(Exception):
    """A project does not run."""

    @property
    def reason(self) -> str:
        """The line that says why: pip's first error, or a traceback's last line."""
        lines = [line.strip() for line in str(self).splitlines() if line.strip()] or ["it says nothing"]
        return next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")


@dataclass
class Row:
    """A client's figures with one implementation; a difference is the largest, as a share of what is tolerated."""

    client: str
    project: str
    what: str
    impl: str = "fastrnn"
    adopted: str | None = None
    outputs: float | None = None
    gradients: float | None = None
    losses: float | None = None
    seconds: float | None = None
    other_seconds: float | None = None
    ratio: float | None = None
    status: str = EQUAL

    @property
    def failed(self) -> bool:
        return not self.status.startswith((EQUAL, UNINSTALLABLE, TORCHS_FAILURE))


@dataclass(frozen=True)
class Client:
    name: str

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.py"

    @property
    def requirements(self) -> list[str]:
        found = METADATA.search(self.path.read_text())
        assert found, f"{self.path} does not say what it requires"
        return ast.literal_eval(re.sub("^# ", "", found["list"], flags=re.MULTILINE))

    def row(self) -> Row:
        """Without figures: what the first line of the file says."""
        first = (ast.get_docstring(ast.parse(self.path.read_text())) or "").partition("\n")[0]
        project, _, what = first.partition(": ")
        return Row(self.name, project, what.removesuffix("."))


def all_clients() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.py") if METADATA.search(path.read_text()))


def run(command: Sequence[object], seconds: float, **options: Any) -> None:
    """Run to the end, its own processes included; UnfitError with what it says if it fails or takes longer."""
    process = subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        **options,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise UnfitError(f"ended after {seconds:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise UnfitError(said)


def install(client: Client, seconds: float) -> Path:
    """The folder of the client's environment; made anew when the requirements have changed."""
    folder = BUILD / client.name
    done = folder / "installed"
    wanted = [f"torch=={torch.__version__.split('+')[0]}", "numpy", *client.requirements]  # numpy: for adopted.py
    if done.exists() and done.read_text().splitlines() == wanted:
        return folder
    run([sys.executable, "-m", "venv", "--clear", folder], seconds)
    run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *wanted], seconds)
    done.write_text("\n".join(wanted))
    return folder


def measure(client: Client, impl: str, folder: Path, args: argparse.Namespace, *more: str) -> dict[str, Any]:
    """A run of one client, and what it computed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    record = folder / "record.pt"
    options = ["--impl", impl, "--threads", args.threads, "--record", record, *more]
    run([folder / "bin" / "python", client.path, *options], args.timeout, env=environment, cwd=folder)
    return torch.load(record)


def difference_of_losses(losses: list[float], wanted: list[float], again: list[float]) -> float:
    """The largest, as a share of what is tolerated; `again` is `wanted` in other roundings."""
    if len(losses) != len(wanted) or not losses:
        return float("inf")
    again = again if len(again) == len(wanted) else wanted
    ours, theirs, others = torch.tensor([losses, wanted, again], dtype=torch.float64)
    own = (others - theirs).abs().cummax(0).values
    return _number(((ours - theirs).abs() / (ABSOLUTE + RELATIVE * theirs.abs() + OWN * own)).max())


Groups = list[list[Tensor]]


def difference(ours: Groups, wanted: Groups, again: Groups) -> float:
    """The same of tensors. A group is a call's outputs, or a step's gradients."""
    if _shapes(ours) != _shapes(wanted):
        return float("inf")
    again = again if _shapes(again) == _shapes(wanted) else wanted
    flat = ([tensor.double() for group in groups for tensor in group] for groups in (ours, wanted, again))
    tensors = list(zip(*flat, strict=True))
    if not tensors:
        return 0.0
    whole = _root_mean_square(torch.cat([theirs.flatten() for _, theirs, _ in tensors]))
    largest = 0.0
    for mine, theirs, other in tensors:
        size = max(_root_mean_square(theirs), SMALL * whole, torch.finfo(torch.float64).tiny)
        tolerated = SHARE * size + OWN * _root_mean_square(other - theirs)
        largest = max(largest, _number(_root_mean_square(mine - theirs) / tolerated))
    return largest


def _shapes(groups: Groups) -> list[list[torch.Size]]:
    return [[tensor.shape for tensor in group if tensor.numel()] for group in groups]


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt() if tensor.numel() else tensor.new_zeros(())


def _number(share: Tensor) -> float:
    """What is no number is far from all."""
    return float(share.nan_to_num(nan=float("inf")))


def compare(row: Row, runs: list[dict[str, dict[str, Any]]], impl: str) -> Row:
    """The row, filled in with what the rounds of runs say of one implementation."""
    ours, theirs, again = (runs[0][name] for name in (impl, "torch", AGAIN))
    row.impl, row.adopted = impl, ", ".join(ours["ways"])
    row.outputs = difference(ours["outputs"], theirs["outputs"], again["outputs"])
    row.gradients = difference(ours["gradients"], theirs["gradients"], again["gradients"])
    row.losses = difference_of_losses(ours["losses"], theirs["losses"], again["losses"])
    row.other_seconds, row.seconds = (
        statistics.median(one[name]["seconds"] for one in runs) for name in ("torch", impl)
    )
    row.ratio = statistics.median(one["torch"]["seconds"] / one[impl]["seconds"] for one in runs)
    apart = [name for name in ("outputs", "gradients", "losses") if getattr(row, name) > 1]
    row.status = f"differs in {', '.join(apart)}" if apart else EQUAL
    return row


def rows_of(client: Client, args: argparse.Namespace) -> list[Row]:
    """Install and run a client: a row for each implementation, or the one that says what went wrong."""
    row, doing = client.row(), UNINSTALLABLE
    try:
        folder = install(client, args.timeout)
        doing = TORCHS_FAILURE
        runs = [{"torch": measure(client, "torch", folder, args)}]
        runs[0][AGAIN] = measure(client, "torch", folder, args, "--without-onednn")
        others = runs[0]["torch"]["impls"][1:]
        for impl in others:
            doing = f"fails with {impl}"
            runs[0][impl] = measure(client, impl, folder, args)
        runs += [{i: measure(client, i, folder, args) for i in ("torch", *others)} for _ in range(1, args.rounds)]
    except UnfitError as error:
        row.status = f"{doing}: {error.reason}"
        if row.failed:
            print(error)
        return [row]
    return [compare(client.row(), runs, impl) for impl in others]


def shown(row: Row) -> list[str]:
    name = row.client if row.impl == "fastrnn" else f"{row.client}, {row.impl}"
    apart, times = (row.outputs, row.gradients, row.losses), (row.other_seconds, row.seconds, row.ratio)
    numbers = [*("" if x is None else f"{x:.3f}" for x in apart), *("" if x is None else f"{x:.2f}" for x in times)]
    return [name, row.adopted or "", *numbers, row.status]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each implementation, in turns (default: 3)")
    parser.add_argument("--clients", nargs="+", choices=all_clients(), default=all_clients(), metavar="CLIENT")
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds for an installation or a run (default: 900)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the environments there, for the next call")
    args = machine.begin(parser)
    header = ["", "adopted by", "outputs", "gradients", "losses", "torch.nn, s", "ours, s", "times as fast", ""]
    table = Table(f"Training, {args.threads} threads; differences as shares of what is tolerated", header)
    rows: list[Row] = []
    for name in args.clients:
        rows += rows_of(Client(name), args)
        print(f"{name}: {rows[-1].status}", flush=True)
        if not args.keep:
            shutil.rmtree(BUILD / name, ignore_errors=True)
    table.rows += map(shown, rows)
    table.show()
    machine.save(args, map(asdict, rows))
    failed = [row.client for row in rows if row.failed]
    print(f"FAILED: {', '.join(failed)}" if failed else "no client fails with fastrnn alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
