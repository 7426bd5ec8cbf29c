"""Errors about a cell's function, which begin with the line of the function that they are about."""

from __future__ import annotations

import inspect
import linecache
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

# What the function's own lines call.
_NOT_THE_USERS = (str(Path(__file__).parent), str(Path(torch.__file__).parent))


def user_line() -> tuple[str, int]:
    """File and number of the line that is being run, of the function or of what it calls outside torch."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def definition_line(function: Any) -> tuple[str, int]:
    function = inspect.unwrap(function)
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else (repr(function), 0)


def refusal(kind: type[Exception], message: str, line: tuple[str, int] | None = None) -> Exception:
    """The error to raise, of the line being run unless another is given."""
    file, number = line or user_line()
    source = linecache.getline(file, number).strip()
    return kind(f"{file}:{number}: {message}" + (f"\n    {source}" if source else ""))
