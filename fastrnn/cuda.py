"""What concerns GPUs alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves, tree_map

from ._explanation import Explanation
from .explain import explain
from .modules.base import Cell, Layer
from .modules.jordan import JordanRNN

__all__ = ["warm_up"]


def warm_up(module: Layer | JordanRNN | Cell, *args: Any, **kwargs: Any) -> Explanation:
    """Run ``module(*args, **kwargs)`` and its derivatives once, ahead, and drop the results.

    Kernels that keep the recurrent weights on the chip are compared with the streamed path at their first use on a GPU,
    for each batch size, which takes milliseconds and waits for the GPU. A graph that is captured before that holds the
    streamed path: call this first, with the sizes and dtypes that the graph is to have.

    Returns:
        What :func:`fastrnn.explain` says of the call from now on.

    Raises:
        TypeError: if module is not one of fastrnn's.
        RuntimeError: while a graph is captured.
    """
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("fastrnn.cuda.warm_up waits for the GPU: call it before the capture")
    explain(module, *args, **kwargs)  # which refuses what it must
    devices = {tensor.device for tensor in _tensors((args, kwargs)) if tensor.is_cuda}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        args_, kwargs_ = tree_map(_differentiable, (args, kwargs))
        sums = [tensor.float().sum() for tensor in _tensors(module.forward(*args_, **kwargs_)) if tensor.requires_grad]
        leaves = [leaf for leaf in (*_tensors((args_, kwargs_)), *module.parameters()) if leaf.requires_grad]
        if sums:
            torch.autograd.grad(sums, leaves, allow_unused=True)
    return explain(module, *args, **kwargs)


def _tensors(tree: Any) -> list[Tensor]:
    leaves = (leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in tree_leaves(tree))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _differentiable(leaf: Any) -> Any:
    return leaf.detach().requires_grad_() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
