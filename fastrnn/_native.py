"""Finds and loads the extension: the one place that knows what can be wrong when it does not load."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch  # The extension's symbols come from torch's libraries, which this loads.


def _trouble(error: ImportError) -> str:
    """Why the extension did not load, and the way out."""
    here = Path(__file__).parent
    packages = [here, *(Path(entry, "fastrnn") for entry in sys.path)]
    found = PathFinder.find_spec("_C", list(map(str, packages)))
    if found and found.origin and Path(found.origin).parent != here:
        return (
            f"fastrnn is installed in {Path(found.origin).parent}, but Python found its sources in {here} first, where "
            "nothing is built: the path begins with PYTHONPATH and the current folder, or the script's. Run Python in "
            f"another folder, or build the sources where they are, in {here.parent}:\n"
            "    pip install --no-build-isolation --editable .        (or: python setup.py build_ext --inplace)"
        )
    return (
        f"fastrnn's extension did not load: {error}\n"
        f"It is built for each Python, against torch 2.11 or later (this is torch {torch.__version__}). Build it with\n"
        "    pip install --no-build-isolation .        (or, to stay in a checkout: python setup.py build_ext --inplace)"
    )


try:
    from . import _C
except ImportError as error:
    if "FASTRNN_ISA" in str(error):
        raise
    raise ImportError(_trouble(error)) from error

isa: str = _C.isa
"""The instruction set whose kernels run: the processor's best, or what FASTRNN_ISA names."""

headers: str = _C.headers
"""The hash of the headers that the extension was compiled with; see fastrnn._cell.compiler.headers_hash."""

cuda_built: bool = _C.cuda_built
"""Whether there are kernels for GPUs."""

cells: dict[str, dict[str, Any]] = _C.cells
"""The facts of every cell by name, as csrc/cells/list.h orders them; see fastrnn._ops.cells."""

plan_words: dict[str, list[str]] = _C.plan_words
"""What the numbers mean that the op ``_plan`` returns; see csrc/pass_words.h."""


add_cell: Any = _C.add_cell
"""Makes a cell that a user wrote known to the kernels; see csrc/cells/registry.h."""

load_cell: Any = _C.load_cell
"""Takes its kernels from a library."""

set_loader: Any = _C.set_loader
"""Names the function that ops ask for such kernels where nobody has called :data:`load_cell` yet."""


def reserve_values(cell: str, dtype: torch.dtype, rows: int, hidden_size: int, handed_on: int = 0) -> int:
    """How many values of that dtype one direction of a layer keeps from forward for backward.

    `handed_on` is the size of h in a layer that has another one above, in the same call: its output is kept, too.
    """
    return rows * (hidden_size * _C.reserve_width(cell, half=dtype.itemsize == 2) + handed_on)


def reraise_interruption() -> None:
    """Raise what a signal's handler (KeyboardInterrupt) raised while a kernel ran, if that is why the kernel ended."""
    interruption = _C.take_interruption()
    if interruption is not None:
        raise interruption
