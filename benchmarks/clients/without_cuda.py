"""For torchaudio and torchvision beside a torch without CUDA.

PyPI's wheels of the two are linked to the torch with CUDA, and fail to import beside another, for the sake of compiled
parts that no client calls.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch


def do_without() -> None:
    """Make them importable, where their compiled parts cannot be loaded."""
    if torch.version.cuda is not None:
        return
    if _is_broken("torchaudio", "lib/_torchaudio*.so"):
        sys.modules["torchaudio._extension"] = _Extension("torchaudio._extension")
    if _is_broken("torchvision", "_C*.so"):
        for name in ("nms", "qnms"):  # torchvision says what these return, wherever it is imported
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


class _Extension(ModuleType):
    """What torchaudio makes of its own without compiled parts."""

    _IS_TORCHAUDIO_EXT_AVAILABLE = False

    @staticmethod
    def fail_if_no_align(function: Callable[..., Any]) -> Callable[..., Any]:
        return function


def _is_broken(package: str, pattern: str) -> bool:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return False
    try:
        for library in Path(spec.origin).parent.glob(pattern):
            ctypes.CDLL(str(library))
    except OSError:
        return True
    return False
