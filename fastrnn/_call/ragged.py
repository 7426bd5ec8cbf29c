"""Sequences of different lengths in one batch: `lengths=`, and jagged nested tensors.

Rows are sorted by length, so that the rows which run at a step are always the first: the mechanism of PackedSequence.
Where the number of valid steps may be asked for, on the CPU outside of graphs, they are packed, too, so that the
products over all steps leave the padding out. Elsewhere nothing looks at a length except to refuse it, so a compiled
graph does not break, and lengths on a GPU are not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _TorchDispatchModeKey as ModeKey
from torch._subclasses.fake_tensor import is_fake
from torch.nn.utils.rnn import PackedSequence

from .._ops.calls import unwrapped

Lengths = Tensor | Sequence[int]


def as_tensor(name: str, lengths: Lengths) -> Tensor:
    """Lengths as a tensor, also those given as a list, an int or an array of NumPy."""
    if isinstance(lengths, Tensor):
        return lengths
    try:
        return torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(lengths).__name__
        raise TypeError(f"{name}: lengths must be integers, in a Tensor or a list, got {kind}: {error}") from None


def is_traced() -> bool:
    """Whether the call is being made a graph, in which values are not to be looked at."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def check_lengths(name: str, lengths: Tensor, steps: int, batch_shape: tuple[int, ...], batch_first: bool) -> None:
    """Raise unless lengths are integers within 0..T, of shape (B,), or () for a single sequence.

    Values are looked at only on the CPU in eager mode; elsewhere that would synchronise or break a graph, and
    :func:`row_counts` clamps instead.
    """
    shape = tuple(lengths.shape)
    if lengths.dtype == torch.bool:
        time = {(steps, *batch_shape): 0, (*batch_shape, steps): len(batch_shape)}.get(shape, "dim")
        raise TypeError(
            f"{name}: lengths must be integers, got torch.bool. If it is a mask of the valid steps, count them: "
            f"mask.sum({time})"
        )
    if lengths.is_floating_point() or lengths.is_complex():
        raise TypeError(f"{name}: lengths must be integers, got {lengths.dtype}. Convert: lengths.long()")
    if shape != batch_shape:
        hint = ""
        if batch_shape and shape == (steps,):
            layout, remedy = ("(T, B, I)", "False") if batch_first else ("(B, T, I)", "True")
            hint = f". That is the input's number of steps: if the input is {layout}, set batch_first={remedy}"
        raise ValueError(f"{name}: lengths must have shape {batch_shape}, one for each sequence, got {shape}{hint}")
    if lengths.is_cpu and lengths.numel() and not is_traced():
        low, high = (int(bound) for bound in torch.aminmax(unwrapped(lengths)))
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


def packs_padded(input: Tensor) -> bool:
    """Whether a padded batch is packed: not where its number of valid steps is unknown, or the host would wait."""
    if not input.is_cpu or is_traced() or torch._C._are_functorch_transforms_active() or is_fake(input):
        return False
    return not any(torch._C._get_dispatch_mode(key) for key in (ModeKey.FAKE, ModeKey.PROXY))


class Padding(NamedTuple):
    """How a padded batch is packed, and its results padded again."""

    source: Tensor  # (N,), for each packed row its place in the padded batch, as that lies in memory
    steps: int
    batch: int
    batch_first: bool  # in memory

    @classmethod
    def of(cls, rows: Rows, input: Tensor) -> Padding:
        """That of input (T, B, I)."""
        steps, batch, _ = input.shape
        step = torch.arange(steps).unsqueeze(1)
        batch_first = not input.is_contiguous() and input.transpose(0, 1).is_contiguous()
        place = rows.order * steps + step if batch_first else step * batch + rows.order
        return cls(place.masked_select(~rows.padding), steps, batch, batch_first)

    def pack(self, padded: Tensor) -> Tensor:
        """(T, B, F) to (N, F)."""
        rows = padded.transpose(0, 1) if self.batch_first else padded
        return rows.flatten(0, 1).index_select(0, self.source)

    def pad(self, packed: Tensor) -> Tensor:
        """(N, F) to (T, B, F), zero where a sequence has ended."""
        rows = packed.new_zeros(self.steps * self.batch, packed.shape[1]).index_copy_(0, self.source, packed)
        if self.batch_first:
            return rows.unflatten(0, (self.batch, self.steps)).transpose(0, 1)
        return rows.unflatten(0, (self.steps, self.batch))


def _ended(lengths: Tensor, steps: int) -> Tensor:
    """(T, B), True at the steps that a row of this length does not have."""
    return lengths <= torch.arange(steps, device=lengths.device).unsqueeze(1)


def _refuse_capture() -> None:
    """A CUDA graph would read the lengths again at every replay, from memory that is somebody else's by then."""
    if not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("lengths on the CPU can't be captured in a CUDA graph. Move them: lengths.to(input.device)")


def check_jagged(name: str, input: Any) -> None:
    """Raise unless a nested tensor is (B, T, I) of layout torch.jagged, T ragged and without holes."""
    if input.layout != torch.jagged or input.dim() != 3 or input._ragged_idx != 1:
        got = ""
        if input.layout == torch.jagged and input.dim() == 3:
            got = f", got its dimension {input._ragged_idx} ragged. If it was transposed, undo that"
        raise ValueError(
            f"{name}: a nested input must be (B, T, I) of layout torch.jagged, with T ragged{got}. Make it with "
            "torch.nested.nested_tensor(sequences, layout=torch.jagged)"
        )
    if input.lengths() is not None:
        raise RuntimeError(f"{name}: the nested input has holes between its sequences. Close them: input.contiguous()")


def packs_jagged(input: Any) -> bool:
    """Whether a jagged tensor is packed: where a padded batch would be, and in a graph that does not know the longest
    sequence, where padding can only be to the sum of all lengths. Not on a GPU, whose kernels want packed sizes on the
    host.
    """
    if torch.compiler.is_compiling():
        return input._maybe_max_seqlen is None and input.is_cpu
    return packs_padded(input.values())


def jagged_to_padded(input: Any) -> tuple[Tensor, Tensor]:
    """(B, T, I) zero-padded to the longest, and lengths (B,), of a nested tensor that :func:`check_jagged` accepts."""
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


def jagged_to_packed(input: Any) -> tuple[PackedSequence, Tensor]:
    """A nested tensor that :func:`check_jagged` accepts, packed, and (N,) the jagged row of each packed one.

    In a graph it has as many steps as there are rows, the last ones empty: the longest length would be a value to ask
    for.
    """
    offsets, values = input.offsets(), input.values()
    rows = values.shape[0]
    steps = rows if torch.compiler.is_compiling() or rows == 0 else input._get_max_seqlen()
    lengths, order = torch.sort(offsets.diff(), descending=True, stable=True)
    ended = torch.searchsorted(lengths.flip(0), torch.arange(steps, device=offsets.device), right=True)
    batch_sizes = lengths.shape[0] - ended
    step, rank = places(batch_sizes, rows)
    source = offsets.index_select(0, order.index_select(0, rank)) + step
    return PackedSequence(values.index_select(0, source), batch_sizes, order, torch.argsort(order)), source


def places(batch_sizes: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(N,) step and batch row of each row of packed data."""
    ends = batch_sizes.cumsum(0)
    positions = torch.arange(rows, device=ends.device)
    step = torch.searchsorted(ends, positions, right=True)
    return step, positions - (ends - batch_sizes).index_select(0, step)


def packed_to_jagged(output: Tensor, source: Tensor, like: Any) -> Tensor:
    """Packed output (N, F) as a nested tensor with the lengths of `like`; source as :func:`jagged_to_packed` has it."""
    return torch.nested.nested_tensor_from_jagged(output.index_select(0, torch.argsort(source)), like.offsets())
