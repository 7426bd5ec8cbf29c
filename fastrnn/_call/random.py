"""Random masks, ruled by ``torch.manual_seed`` and ``fork_rng`` as dropout is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mask(p: float, shape: Sequence[int], like: Tensor, value: float = 1.0) -> Tensor:
    """A tensor that is `value` with probability p, else 0, of like's dtype and device. On the CPU p has 16 bits.

    There torch.bernoulli takes 10 ns an element: torch's generator gives the seed alone.
    """
    if not like.is_cpu:
        drawn = torch.bernoulli(like.new_full(shape, p))
        return drawn if value == 1 else drawn * value
    seed = torch.randint(2**63 - 1, (1,), device="cpu")
    # Not `like` itself: under vmap one mask serves all samples, or each draws its own, whatever `like` is.
    dtype = torch.empty(0, dtype=like.dtype, device="cpu")
    return torch.ops.fastrnn._random_mask.default(seed, dtype, math.prod(shape), p, value).view(shape)


def dropout_factors(p: float, shape: Sequence[int], like: Tensor) -> Tensor:
    """Factors that drop with probability p and scale what stays by 1 / (1 - p)."""
    return like.new_zeros(shape) if p == 1 else mask(1 - p, shape, like, 1 / (1 - p))


@torch.library.register_fake("fastrnn::_random_mask")
def _fake_mask(seed: Tensor, like: Tensor, count: int, probability: float, value: float) -> Tensor:
    return like.new_empty((count,))
