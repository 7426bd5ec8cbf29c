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
from functools import cache
from pathlib import Path

import torch
import torch._appdirs

from .. import _native
from .compiler import ALIGNED_LOOPS, CXX_FLAGS, ISA_FLAGS

_FILE = """\
#include "cell.h"
#define FASTRNN_CELL {cell}Cell
#define FASTRNN_TYPE {type}
#include "cpu/own_cell_end.h"
"""
_TYPES = {torch.float32: "float", torch.float64: "double"}


class CannotCompileError(Exception):
    """Why there is no library, in words for the user."""


def library_of(name: str, header: str, dtype: torch.dtype) -> Path:
    """The library with the kernels of the cell ``fastrnn::own::<name>Cell``, for this processor and one dtype.

    Raises:
        CannotCompileError: if it isn't on disk and cannot be made.
    """
    text = _FILE.format(cell=name, type=_TYPES[dtype])
    compiler = _compiler()
    flags = [*CXX_FLAGS.split(), *ISA_FLAGS[_native.isa].split(), ALIGNED_LOOPS]
    parts = (header, text, _headers_hash(), compiler.version if compiler else "", " ".join(flags))
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]
    kept = _cache_folder()
    file = f"{name}-{key}.so"
    if kept is not None and (kept / file).exists():
        return kept / file
    if os.environ.get("FASTRNN_COMPILE") == "0":
        raise CannotCompileError("FASTRNN_COMPILE=0 forbids to compile it")
    if compiler is None:
        raise CannotCompileError("no C++ compiler was found: install g++ 12 or later, or set CXX")
    _announce(f"fastrnn: compiling the cell {name} ({_native.isa}, {_TYPES[dtype]}) ... ")
    start = time.perf_counter()
    files = {"cell.h": header, "cell.cpp": text}
    library = _compile(files, [*compiler.command, *flags], (kept or _own_folder()) / file)
    _announce(f"{time.perf_counter() - start:.1f} s\n")
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
    package = Path(__file__).resolve().parent.parent
    installed = package / "_csrc"
    return installed if installed.exists() else package.parent / "csrc"


@cache
def _headers_hash() -> str:
    found = hashlib.sha256()
    root = _headers()
    for path in sorted([*root.glob("*.h"), *(root / "cells").rglob("*.h"), *(root / "cpu").rglob("*.h")]):
        found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


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
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o022 or not os.access(folder, os.W_OK):
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


def _compile(files: dict[str, str], command: list[str], library: Path) -> Path:
    """Made beside its place and renamed, so that another process finds it whole or not at all."""
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text)
        source, made = folder / "cell.cpp", folder / "cell.so"
        includes = [f"-I{folder}", f"-I{_headers()}"]
        command = [*command, *includes, "-shared", "-s", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            _announce("failed\n")
            errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr.strip()]
            raise CannotCompileError(f"the compiler failed: {errors[0]}")
        made.replace(library)
    return library
