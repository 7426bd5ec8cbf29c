"""A C++ file of this folder as a library, compiled for this processor."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from unavailable import UnavailableError

HERE = Path(__file__).resolve().parent
FLAGS = "-std=c++20 -O3 -fPIC -shared -fopenmp -pthread -fno-math-errno -fno-trapping-math -Wno-psabi"


@cache
def compiled(source: str) -> ctypes.CDLL:
    """For the instruction set that machine.py holds us to, if it does. UnavailableError without a compiler."""
    held = os.environ.get("FASTRNN_ISA") == "avx2"
    isa = ["-mavx2", "-mfma"] if held else ["-march=native", "-mprefer-vector-width=512"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.so"
        command = [*os.environ.get("CXX", "g++").split(), *FLAGS.split(), *isa, f"-I{HERE.parent / 'csrc'}"]
        try:
            subprocess.run([*command, str(HERE / source), "-o", str(library)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise UnavailableError(f"{source} does not compile: {error}") from error
        return ctypes.CDLL(str(library))
