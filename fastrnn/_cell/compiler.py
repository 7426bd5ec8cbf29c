"""How C++ is compiled: for the extension by setup.py, which runs this file by itself, and for cells of one's own."""

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path

# The kernels neither read errno nor trap, which lets comparisons and selects become vector code.
CXX_FLAGS = (
    "-std=c++20 -O3 -fPIC -fvisibility=hidden -fopenmp -fno-math-errno -fno-trapping-math -Wall -Wextra -Wno-psabi"
)
# Of kernels, by the name of their instruction set; "" for those that every processor of the kind has.
ISA_FLAGS = {
    "sse2": "",
    "neon": "",
    "avx2": "-mavx2 -mfma",
    "avx512": "-mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512",
}
# What those for weights of 8 bits may use besides.
INT8_FLAGS = {"avx512": "-mavx512vnni"}
# A register tile's loop was 1.05 times as fast where it began on such a boundary, which without the option is chance.
ALIGNED_LOOPS = "-falign-loops=32"


def cell_headers(root: Path) -> Iterator[Path]:
    """What a cell of one's own is compiled with, in the folder of the headers."""
    yield from sorted([*root.glob("*.h"), *(root / "cells").rglob("*.h"), *(root / "cpu").rglob("*.h")])


def headers_hash(root: Path) -> str:
    """Of these: a cell's kernels and the extension that calls them must have been compiled with the same."""
    found = hashlib.sha256()
    for path in cell_headers(root):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def instruction_sets() -> list[str]:
    """Those that processors of this kind may have."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    return [isa for isa in ISA_FLAGS if (isa != "neon") == is_x86]
