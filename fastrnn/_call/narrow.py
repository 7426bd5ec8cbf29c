"""Weights rounded to bfloat16 or to 8-bit integers, for pack_weights(dtype=...)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NARROW_DTYPES = (torch.bfloat16, torch.int8)
_MOST = 127  # the integers are symmetric: -128 is none of them


def check_narrow_dtype(caller: str, dtype: object) -> None:
    """Raise ValueError for what weights are not rounded to."""
    if dtype is not None and dtype not in NARROW_DTYPES:
        raise ValueError(f"{caller}: dtype must be None, torch.bfloat16 or torch.int8, got {dtype}")


def narrowed(weights: Sequence[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor] | None]:
    """The matrices in that dtype and the biases in float32, and for integers the scales of each matrix's rows."""
    if dtype == torch.bfloat16:
        return [weight.to(dtype if weight.dim() > 1 else torch.float32) for weight in weights], None
    rounded, scales = [], []
    for weight in weights:
        if weight.dim() > 1:
            integers, scale = to_int8(weight)
            rounded.append(integers)
            scales.append(scale)
        else:
            rounded.append(weight.float())
    return rounded, scales


def to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Integers and a scale for each row, whose products are the matrix to within half a scale.

    A row's scale is its largest magnitude over 127; a row of zeros has the scale 0.
    """
    wide = matrix.double()  # where a scale is subnormal, float32 would divide by what little is left of it
    most = wide.abs().amax(1) if matrix.shape[1] else wide.new_zeros(matrix.shape[0])
    scale = (most / _MOST).float()
    divisor = scale.double().masked_fill(scale == 0, 1.0).unsqueeze(1)
    return (wide / divisor).round().clamp(-_MOST, _MOST).to(torch.int8), scale


def check_int8(name: str, weight: Tensor) -> None:
    """Raise ValueError if integers cannot hold the weight."""
    if not weight.isfinite().all():
        raise ValueError(
            f"pack_weights: {name} has NaN or infinity, which int8 cannot hold. Mend the weights, or use torch.bfloat16"
        )
