"""Errors about a cell's function, which begin with the line of the function that they are about."""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch


def _folder(file: str) -> str:
    return f"{Path(file).parent}{os.sep}"


# What the function's own lines call.
_NOT_THE_USERS = (_folder(__file__), _folder(torch.__file__))
_NOR_THE_CALLERS = (_folder(str(Path(__file__).parent)), _folder(torch.__file__))


def user_line(others: tuple[str, ...] = _NOT_THE_USERS) -> tuple[str, int]:
    """File and number of the line that is being run outside these folders: of the function or of what it calls."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(others):
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


def warn_caller(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """A warning of the line that called a layer: hooks and streams may lie between."""
    file, number = user_line(_NOR_THE_CALLERS)
    warnings.warn_explicit(message, category, file, number)
