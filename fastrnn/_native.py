"""Finds and loads the extension: the one place that knows what can be wrong when it does not load."""

from __future__ import annotations

from typing import Any

import torch  # The extension's symbols come from torch's libraries, which this loads.

try:
    from . import _C
except ImportError as error:
    if "FASTRNN_ISA" in str(error):
        raise
    raise ImportError(
        f"fastrnn's extension did not load: {error}\n"
        f"It is built for each Python, against torch 2.11 or later (this is torch {torch.__version__}). Build it with\n"
        "    pip install --no-build-isolation .        (or, in a checkout: python setup.py build_ext --inplace)"
    ) from error

isa: str = _C.isa
"""The instruction set whose kernels run: the processor's best, or what FASTRNN_ISA names."""

reserve_width = _C.reserve_width


def reraise_interruption() -> None:
    """Raise what a signal's handler (KeyboardInterrupt) raised while a kernel ran, if that is why the kernel ended."""
    interruption = _C.take_interruption()
    if interruption is not None:
        raise interruption


def plan(
    cell: str,
    dtype: torch.dtype,
    steps: int,
    batch: int,
    hidden_size: int,
    recurrent_size: int,
    backward: bool,
    *,
    rows: int | None = None,
    projected: bool = False,
) -> dict[str, Any]:
    """How the kernels will run one direction of one layer: path, isa, tile, threads, reason and reserve_bytes.

    `rows` is the number of valid (step, batch) pairs; by default all of them.
    """
    rows = steps * batch if rows is None else rows
    facts: dict[str, Any] = _C.plan(
        cell=cell,
        double_precision=dtype == torch.float64,
        steps=steps,
        batch=batch,
        rows=rows,
        hidden_size=hidden_size,
        recurrent_size=recurrent_size,
        projected=projected,
        backward=backward,
    )
    # Half types are computed, and kept, in float32.
    facts["reserve_bytes"] = rows * hidden_size * reserve_width(cell) * max(dtype.itemsize, 4)
    return facts
