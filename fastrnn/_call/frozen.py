"""Recurrent weights packed once, for the inference calls that follow: what pack_weights() of a module makes.

Here and below they are called frozen, as the kernels call them, for "packed" is what a call does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from operator import is_

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.optim.optimizer import register_optimizer_step_post_hook

from .._ops import schema
from .._ops.cells import CELLS
from .narrow import narrowed


class Frozen:
    """The packed weights of a stack of layers, and what tells whether they are those of its parameters still.

    Attributes:
        whole: those of all layers, as an op takes them that runs all.
        by_layer: each layer's part of it.
        dtype: what the matrices were rounded to, None if they were not.
    """

    def __init__(
        self,
        cell: str,
        weights: Sequence[Tensor],
        num_layers: int,
        bidirectional: bool,
        dtype: torch.dtype | None = None,
    ) -> None:
        _count_optimizer_steps()
        self.dtype = dtype
        self._stack = cell, num_layers, bidirectional
        per_layer = len(weights) // num_layers
        per_direction = per_layer // 2 if bidirectional else per_layer
        self._weights = list(weights)
        # All but each w_ih, unless that is rounded.
        self._packed = [weight for index, weight in enumerate(weights) if dtype is not None or index % per_direction]
        # Tensors made in inference mode count no versions.
        self._versioned = [weight for weight in self._packed if not weight.is_inference()]
        self._take_note()
        packed = self._pack_layers()
        self.whole = torch.cat(packed) if num_layers > 1 else packed[0]
        self.by_layer = self.whole.split([layer.numel() for layer in packed])
        # Rounded, they are packed again to be compared: copies would take more memory than the packed weights do.
        self._values = [weight.detach().clone() for weight in self._packed] if dtype is None else []

    @torch.no_grad()
    def _pack_layers(self) -> list[Tensor]:
        cell, num_layers, bidirectional = self._stack
        per_layer = len(self._weights) // num_layers
        packed = []
        for first in range(0, len(self._weights), per_layer):
            own, scales = self._weights[first : first + per_layer], None
            if self.dtype is not None:
                own, scales = narrowed(own, self.dtype)
            packed += schema.pack(cell, own, bidirectional, self.dtype is not None, scales)
        return packed

    def _take_note(self) -> None:
        """Remember what changes when the weights do: taken before they are read, so that no change falls between."""
        self._steps = OptimizerSteps.count
        self._versions = [weight._version for weight in self._versioned]
        self._pointers = list(map(Tensor.data_ptr, self._packed))
        self._storages = [weight.untyped_storage() for weight in self._packed]  # held, or others get their addresses

    def are_of(self, weights: Sequence[Tensor]) -> bool:
        """Whether these very tensors were packed."""
        return all(map(is_, weights, self._weights))

    def are_current(self) -> bool:
        """Whether the tensors hold the values that were packed.

        Values are compared only where something may have changed them: at every call that would take 450 us for 4 MB.
        """
        if (
            self._steps == OptimizerSteps.count
            and list(map(Tensor.data_ptr, self._packed)) == self._pointers
            and [weight._version for weight in self._versioned] == self._versions
        ):
            return True
        self._take_note()
        if self.dtype is None:
            return all(map(_are_equal, self._packed, self._values))
        if any(why_not_frozen(self._stack[0], weight, self.dtype) for weight in self._packed):
            return False
        packed = self._pack_layers()
        return len(packed) == len(self.by_layer) and all(map(_are_same_bits, packed, self.by_layer))


def why_not_frozen(cell: str, weight: Tensor, dtype: torch.dtype | None = None) -> str:
    """What keeps kernels from packing weights like this one, rounded to `dtype`, "" if nothing does."""
    if dtype is not None and CELLS[cell].load is not None:
        return "kernels of a cell of one's own read its weights as they are, not rounded"
    if dtype is not None and weight.dtype == torch.float64:
        return f"the weights are float64, which are not rounded to {str(dtype).removeprefix('torch.')}"
    if is_fake(weight) or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE):
        return "it is called for fake tensors, which have no values"
    if not weight.is_cpu:
        return f"the weights are on {weight.device}, and those on the CPU alone are packed"
    if weight.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"the weights are {weight.dtype}, and float32, float64 and bfloat16 alone are read as they are"
    return ""


class OptimizerSteps:
    """Those of all optimizers since weights were first packed: fused ones write without counting a version."""

    count = 0  # an attribute, and no global of the module: torch.compile would guard that, and compile at every step

    @classmethod
    def add(cls, *_: object) -> None:
        cls.count += 1


@cache
def _count_optimizer_steps() -> None:
    """Not before weights are packed, so that whoever packs none pays nothing."""
    register_optimizer_step_post_hook(OptimizerSteps.add)


def _are_same_bits(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.int8), other.view(torch.int8))


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
