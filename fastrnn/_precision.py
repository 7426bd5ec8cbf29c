"""Which dtype a call computes in, and which it returns.

The kernels compute in float32 and float64. A layer or cell of bfloat16 or float16 computes in float32, states and sums
included, and rounds once, at the end. Under autocast the results have autocast's dtype whatever the cell, as if every
op in it were on autocast's list; float64 keeps out of autocast, as it does in torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

HALF_DTYPES = (torch.bfloat16, torch.float16)


def result_dtype(input: Tensor) -> torch.dtype:
    """The dtype of what a layer or cell returns for this input."""
    dtype = input.dtype
    if torch._C._is_any_autocast_enabled() and dtype != torch.float64:
        device = input.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
    return dtype


def computed_as_is(input: Tensor, result: torch.dtype) -> bool:
    """Whether the kernels compute in the dtype that came and is to be returned, so that nothing is cast."""
    return result == input.dtype and result not in HALF_DTYPES


def widened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors as the kernels take them, when some of them are of half precision."""
    return [tensor.float() for tensor in tensors]


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """What runs in here has its dtypes settled: autocast must not round the formulas of double backward again.

    Backward may be called with autocast on, so whatever computes by torch ops there enters this by itself.
    """
    if torch._C._is_any_autocast_enabled():
        with torch.autocast(device.type, enabled=False):
            yield
    else:
        yield
