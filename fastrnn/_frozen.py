"""Recurrent weights packed once, for the inference calls that follow: what pack_weights() of a module makes.

Here and below they are called frozen, as the ops call them, for "packed" is what a call does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .ops import CELLS


class Frozen:
    """The packed weights of a stack of layers, and which tensors they were packed from.

    Attributes:
        whole: those of all layers, as an op takes them that runs all.
        by_layer: each layer's part of it.
    """

    def __init__(self, cell: str, weights: Sequence[Tensor], num_layers: int, bidirectional: bool) -> None:
        per_layer = len(weights) // num_layers
        with torch.no_grad():
            packed = [
                CELLS[cell].freeze(weights[first : first + per_layer], bidirectional)
                for first in range(0, len(weights), per_layer)
            ]
            self.whole = torch.stack(packed) if num_layers > 1 else packed[0]
            self.by_layer = self.whole.unbind(0) if num_layers > 1 else (self.whole,)
        self._weights = list(weights)
        # Tensors made in inference mode count no versions.
        self._versioned = [weight for weight in weights if not weight.is_inference()]
        self._versions = [weight._version for weight in self._versioned]

    def are_of(self, weights: Sequence[Tensor]) -> bool:
        """Whether these are the packed weights still: not if `weights` are others by now, or were written to since."""
        for weight, frozen in zip(weights, self._weights, strict=True):
            if weight is not frozen:
                return False
        return [weight._version for weight in self._versioned] == self._versions


def can_freeze(weight: Tensor) -> bool:
    """Whether kernels pack weights like this one: on the CPU, in a dtype that they read as it is."""
    return weight.is_cpu and weight.dtype in (torch.float32, torch.float64, torch.bfloat16)
