"""Compiles a cell's header to a library with its kernels, and keeps that on disk for other processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch._appdirs

from .. import _native
from .compiler import ALIGNED_LOOPS, CXX_FLAGS, ISA_FLAGS, headers_hash

_FILE = """\
#include "cell.h"
#define FASTRNN_CELL {cell}Cell
#define FASTRNN_TYPE {type}
#include "cpu/own_cell_end.h"
"""
_PACKAGE = Path(__file__).resolve().parent.parent
DTYPES = {torch.float32: "float", torch.float64: "double"}
"""Of kernels, with what C++ calls them."""


class CannotCompileError(Exception):
    """Why there is no library, in words for the user."""


def library_of(name: str, header: str, dtype: torch.dtype) -> Path:
    """The library with the kernels of the cell ``fastrnn::own::<name>Cell``, for this processor and one dtype.

    Raises:
        CannotCompileError: if it isn't on disk and cannot be made.
    """
    if _native.headers != _headers_hash():
        raise CannotCompileError("fastrnn's headers have changed since its extension was built: build it again")
    kernels = _Kernels(name, header, dtype, _native.isa)
    if kernels.prebuilt.exists():
        return kernels.prebuilt
    compiler, folder = _compiler(), _cache_folder()
    file = f"{name}-{kernels.hash(compiler.version if compiler else '')}.so"
    if folder is not None and (folder / file).exists():
        return folder / file
    if os.environ.get("FASTRNN_COMPILE") == "0":
        raise CannotCompileError("FASTRNN_COMPILE=0 forbids to compile it")
    if compiler is None:
        raise CannotCompileError("no C++ compiler was found: install g++ 12 or later, or set CXX")
    _announce(f"fastrnn: compiling the cell {name} ({kernels.isa}, {DTYPES[dtype]}) ... ")
    start = time.perf_counter()
    if folder is None or not os.access(folder, os.W_OK):
        folder = _own_folder()
    try:
        library = kernels.compile(compiler, folder / file)
    except CannotCompileError:
        _announce("failed\n")
        raise
    _announce(f"{time.perf_counter() - start:.1f} s\n")
    return library


def prebuild(name: str, header: str, dtype: torch.dtype, isa: str, folder: Path) -> None:
    """Leave in the folder what :func:`library_of` looks for before all else, where the folder is the package's."""
    compiler = _compiler()
    if compiler is None:
        raise CannotCompileError("no C++ compiler was found")
    kernels = _Kernels(name, header, dtype, isa)
    kernels.compile(compiler, folder / kernels.prebuilt.name)


@dataclass(frozen=True)
class _Kernels:
    """What is compiled to one library."""

    name: str
    header: str
    dtype: torch.dtype
    isa: str

    @property
    def _text(self) -> str:
        return _FILE.format(cell=self.name, type=DTYPES[self.dtype])

    @property
    def _flags(self) -> list[str]:
        flags = f"{CXX_FLAGS} {ISA_FLAGS[self.isa]} {ALIGNED_LOOPS}".split()
        return [flag for flag in flags if flag != "-fopenmp"]  # threads are the extension's

    def hash(self, compiler: str) -> str:
        """Of all that decides what the library is."""
        parts = (self.header, self._text, _headers_hash(), compiler, *self._flags)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]

    @property
    def prebuilt(self) -> Path:
        """Where a wheel would bring it."""
        return _PACKAGE / "_cells" / f"{self.name}-{self.hash('')}.so"

    def compile(self, compiler: _Compiler, library: Path) -> Path:
        """Made beside its place and renamed, so that another process finds it whole or not at all."""
        with tempfile.TemporaryDirectory(dir=library.parent) as place:
            folder = Path(place)
            (folder / "cell.h").write_text(self.header)
            source, made = folder / "cell.cpp", folder / "cell.so"
            source.write_text(self._text)
            includes = [f"-I{folder}", f"-I{_headers()}"]
            command = [*compiler.command, *self._flags, *includes, "-shared", "-s", str(source), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
                raise CannotCompileError(f"the compiler failed: {errors[0]}")
            made.replace(library)
        return library


class _Compiler:
    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


@cache
def _compiler() -> _Compiler | None:
    command = os.environ.get("CXX", "g++").split()
    return _Compiler(command) if command and shutil.which(command[0]) else None


@cache
def _headers() -> Path:
    """The folder of the package's C++ headers: in a wheel within the package, in a checkout beside it."""
    installed = _PACKAGE / "_csrc"
    return installed if installed.exists() else _PACKAGE.parent / "csrc"


@cache
def _headers_hash() -> str:
    return headers_hash(_headers())


def _cache_folder() -> Path | None:
    """Where torch keeps extensions that it compiles; None if nobody but us must be able to write there, and that isn't
    so: what lies there is loaded into the process."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or torch._appdirs.user_cache_dir(appname="torch_extensions")
    folder = Path(root, "fastrnn_cells")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022:
        return None
    return folder


@cache
def _own_folder() -> Path:
    """For as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix="fastrnn_cells_")
    _folders.append(folder)
    return Path(folder.name)


_folders: list[tempfile.TemporaryDirectory[str]] = []


def _announce(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)
