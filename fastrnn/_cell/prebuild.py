"""Compiles the cells of :mod:`fastrnn.papers` for every instruction set, so that who installs a wheel needs no compiler
for them.

    FASTRNN_PREBUILD_CELLS=1 pip wheel .

does so through setup.py, as ``make wheel`` does.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..papers import CELLS
from .build import DTYPES, prebuild
from .compiler import instruction_sets


def main(folder: Path) -> None:
    """Leaves the libraries in the folder, made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [
            pool.submit(prebuild, own.name, own.source(), dtype, isa, folder)
            for own in CELLS
            for dtype in DTYPES
            for isa in instruction_sets()
        ]
    for library in made:
        library.result()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
