"""A whole model's layers packed for serving, and as they were."""

from __future__ import annotations

import warnings
from typing import TypeVar

import torch
from torch import nn

from ._call.narrow import check_narrow_dtype
from .adopt import modules_of
from .modules.weights import Packing

Model = TypeVar("Model", bound=nn.Module)


def pack(model: Model, dtype: torch.dtype | None = None) -> Model:
    """Call ``pack_weights(dtype)`` of every fastrnn layer and cell in a model: for inference on the CPU.

    ``torch.int8`` is what ``torch.ao.quantization.quantize_dynamic`` does for torch.nn's LSTM and GRU, with activations
    left in float32. :meth:`fastrnn.LSTM.pack_weights` says what is rounded and what is not. Layers of torch.nn stay as
    they are: :func:`fastrnn.convert` makes them fastrnn's.

    Args:
        model: any module; a layer by itself will do.
        dtype: None (default) for the weights as they are, ``torch.bfloat16`` or ``torch.int8``.

    Returns:
        The model.

    Warns:
        UserWarning: for a layer that cannot be packed, such as one with :class:`fastrnn.Options`, which is left alone.

    Raises:
        TypeError: if model is not a module.
        ValueError: for another dtype, or weights that int8 cannot hold.

    Example::

        model = fastrnn.pack(nn.Sequential(fastrnn.LSTM(16, 32)).eval(), dtype=torch.int8)
    """
    check_narrow_dtype("pack", dtype)
    for name, module in _packing_modules(model, "pack"):
        obstacle = module._why_not_packed(dtype)
        if obstacle:
            place = name or "the model"
            warnings.warn(f"pack: {place} is left as it is: {obstacle}", stacklevel=2)
        else:
            module.pack_weights(dtype)
    return model


def unpack(model: Model) -> Model:
    """Undo :func:`pack`: the layers and cells compute with their parameters again.

    Args:
        model: any module.

    Returns:
        The model.

    Raises:
        TypeError: if model is not a module.
    """
    for _, module in _packing_modules(model, "unpack"):
        module.unpack_weights()
    return model


def _packing_modules(model: nn.Module, caller: str) -> list[tuple[str, Packing]]:
    return [(name, module) for name, module in modules_of(model, caller) if isinstance(module, Packing)]
