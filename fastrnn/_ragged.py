"""Sequences of different lengths in one padded batch: `lengths=`, and jagged nested tensors.

Rows are sorted by length, so that the rows which run at a step are always the first: the mechanism of PackedSequence,
without packing. Nothing here looks at a length except to refuse it, so a compiled graph does not break, and lengths on
a GPU are not waited for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


def check_lengths(name: str, lengths: Tensor, steps: int, batch_shape: tuple[int, ...]) -> None:
    """Raise unless lengths are integers within 0..T, of shape (B,), or () for a single sequence.

    Values are looked at only on the CPU in eager mode; elsewhere that would synchronise or break a graph, and
    :func:`row_counts` clamps instead.
    """
    if not isinstance(lengths, Tensor):
        raise TypeError(f"{name}: lengths must be a Tensor of integers, got {type(lengths).__name__}")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"{name}: lengths must be integers, got {lengths.dtype}. Convert: lengths.long()")
    if tuple(lengths.shape) != batch_shape:
        raise ValueError(
            f"{name}: lengths must have shape {batch_shape}, one for each sequence, got {tuple(lengths.shape)}"
        )
    if lengths.is_cpu and lengths.numel() and not torch.compiler.is_compiling() and not torch._C._is_tracing():
        low, high = (int(bound) for bound in torch.aminmax(lengths))
        if low < 0 or high > steps:
            raise ValueError(
                f"{name}: lengths must lie within 0..{steps}, the steps of the input, got {low if low < 0 else high}"
            )


class Rows(NamedTuple):
    """How to run a padded batch whose rows differ in length."""

    batch_sizes: Tensor  # (T,), the rows that run at each step, where the lengths lie
    order: Tensor  # (B,), the rows from the longest to the shortest
    restore: Tensor  # (B,), where to find each row after sorting
    padding: Tensor  # (T, B), True where a row of the sorted batch has ended


def row_counts(lengths: Tensor, steps: int, device: torch.device) -> Rows:
    """How to run a padded batch on a device, of so many steps, whose rows have these lengths (B,)."""
    ordered, order = torch.sort(lengths, descending=True, stable=True)
    restore = torch.argsort(order)
    padding = _ended(ordered, steps)
    batch_sizes = lengths.shape[0] - padding.sum(1)
    if lengths.device != device:
        _refuse_capture()
        # In one copy, for which the host does not wait: from pageable memory it is staged before `to` returns.
        ordered, order, restore = torch.stack((ordered, order, restore)).to(device, non_blocking=True)
        padding = _ended(ordered, steps)
    return Rows(batch_sizes, order, restore, padding)


def _ended(lengths: Tensor, steps: int) -> Tensor:
    """(T, B), True at the steps that a row of this length does not have."""
    return lengths <= torch.arange(steps, device=lengths.device).unsqueeze(1)


def _refuse_capture() -> None:
    """A CUDA graph would read the lengths again at every replay, from memory that is somebody else's by then."""
    if not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("lengths on the CPU can't be captured in a CUDA graph. Move them: lengths.to(input.device)")


def jagged_to_padded(name: str, input: Any) -> tuple[Tensor, Tensor]:
    """(B, T, I) zero-padded to the longest, and lengths (B,), of a nested tensor of layout torch.jagged."""
    if input.layout != torch.jagged or input.dim() != 3:
        raise ValueError(
            f"{name}: a nested input must be (B, T, I) of layout torch.jagged. Make it with "
            "torch.nested.nested_tensor(sequences, layout=torch.jagged)"
        )
    lengths = input.offsets().diff()
    if torch.compiler.is_compiling() or not lengths.numel():
        return torch.nested.to_padded_tensor(input, 0.0), lengths
    # Without a size torch pads to the sum of all lengths, if the tensor was made without max_seqlen. On a GPU the host
    # waits for this, and for nothing else; the tensor remembers it.
    size = (lengths.shape[0], input._get_max_seqlen(), input.shape[2])
    return torch.nested.to_padded_tensor(input, 0.0, size), lengths


def padded_to_jagged(output: Tensor, like: Any) -> Tensor:
    """The valid steps of output (T, B, F) as a nested tensor with the lengths of `like`."""
    steps, batch, _ = output.shape
    offsets, rows = like.offsets(), like.values().shape[0]
    sequence = torch.repeat_interleave(offsets.diff(), output_size=rows)
    step = torch.arange(rows, device=output.device) - offsets.index_select(0, sequence)
    # Not output[valid]: how many there are is known, and a mask would make the host wait for their number.
    values = output.flatten(0, 1).index_select(0, step * batch + sequence)
    return torch.nested.nested_tensor_from_jagged(values, offsets, max_seqlen=steps)
