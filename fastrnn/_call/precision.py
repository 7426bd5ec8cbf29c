"""Which dtype a call computes in, and which it returns.

A GPU's kernels take half types as they are, and hold sums, c and the gradients of states in float32. On the CPU a layer
or cell of bfloat16 or float16 computes in float32, states and sums included, and rounds once, at the end. Under
autocast the results have autocast's dtype whatever the cell, as if every op in it were on autocast's list; a GPU
computes in it, too. float64 keeps out of autocast, as it does in torch.
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


def kernels_take_half(input: Tensor) -> bool:
    """Whether the kernels of the input's device compute in half types."""
    return input.is_cuda


def computed_dtype(input: Tensor, result: torch.dtype) -> torch.dtype:
    """The dtype in which the kernels take the tensors of a call that is to return `result`."""
    return torch.float32 if result in HALF_DTYPES and not kernels_take_half(input) else result


def computed_as_is(input: Tensor, result: torch.dtype) -> bool:
    """Whether the kernels compute in the dtype that came and is to be returned, so that nothing is cast."""
    if result != input.dtype:
        return False
    # Under autocast a half input may come with float32 weights.
    return result not in HALF_DTYPES or (kernels_take_half(input) and not torch._C._is_any_autocast_enabled())


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors in that dtype; those that have it already as they are."""
    return [tensor.to(dtype) for tensor in tensors]


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


def allows_tf32(input: Tensor) -> bool:
    """Whether products of float32 on a GPU may round their factors to TF32.

    torch's switch for RNNs says so, the one that torch.nn.LSTM obeys: ``torch.backends.cudnn.rnn.fp32_precision``, or
    ``torch.backends.cudnn.allow_tf32`` for convolutions too; by default they may. A graph keeps what was set when it
    was traced.
    """
    return input.is_cuda and input.dtype == torch.float32 and _rnn_switch_is_on()


def _rnn_switch_is_on() -> bool:
    return torch._C._get_fp32_precision_getter("cuda", "rnn") == "tf32"


# Dynamo cannot trace the getter. torch.compiler.assume_constant_result would set this, but only after importing Dynamo.
_rnn_switch_is_on._dynamo_marked_constant = True  # type: ignore[attr-defined]
