"""Online inference: a layer whose states stay with it from call to call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .modules.base import Layer


class Stream:
    """A layer that reads a sequence as it arrives, sample by sample or in chunks, and keeps its states in between.

    What it returns is what the layer would return for the whole sequence, but for rounding. No gradients are recorded.

    Args:
        layer: an :class:`fastrnn.RNN`, :class:`fastrnn.LSTM` or :class:`fastrnn.GRU` of one direction. Writing to its
            parameters, loading a state_dict and moving it take effect from the next call on; after moving it to another
            device or dtype call :meth:`reset`.
        freeze: whether to call ``layer.freeze_weights()``, which packs the recurrent weights once. Default True.

    Attributes:
        state: hx of the next call as the layer takes it, None before the first one; may be assigned.

    Raises:
        TypeError: for a layer of another kind.
        ValueError: for a bidirectional layer, which has to see the end of a sequence first.

    Example::

        stream = fastrnn.Stream(fastrnn.GRU(3, 8).eval())
        for sample in torch.randn(100, 3):
            output = stream.step(sample)  # (8,)
        output = stream(torch.randn(20, 3))  # the next 20 samples: (20, 8)
    """

    def __init__(self, layer: Layer, freeze: bool = True) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"Stream takes a fastrnn.RNN, LSTM or GRU, got {type(layer).__name__}")
        if layer.bidirectional:
            raise ValueError(
                "Stream: a bidirectional layer starts at the end of a sequence, which a stream has not seen"
            )
        self.layer = layer
        self.state: Any = None
        if freeze:
            layer.freeze_weights()

    def reset(self, where: Tensor | None = None) -> None:
        """Begin new sequences, from zeros: all of them, or those where a bool mask (B,) is True.

        Raises:
            TypeError: for a mask that is not bool.
            ValueError: for a mask of another shape, or before the first call.
        """
        if where is None:
            self.state = None
            return
        if where.dtype != torch.bool:
            raise TypeError(f"Stream: where must be a Tensor of bool, got {where.dtype}. Convert: where.bool()")
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        if states[0] is None or states[0].dim() != 3 or where.shape != states[0].shape[1:2]:
            batch = "no batch yet" if states[0] is None else f"states of shape {tuple(states[0].shape)}"
            raise ValueError(f"Stream: where must have shape (B,), got {tuple(where.shape)} for {batch}")
        kept = tuple([state.masked_fill(where.to(state.device).unsqueeze(1), 0.0) for state in states])
        self.state = kept if isinstance(self.state, tuple) else kept[0]

    @torch.no_grad()
    def __call__(self, chunk: Tensor) -> Tensor:
        """The outputs of the next steps: `chunk` (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence.

        Returns:
            (T, B, F), (B, T, F) or (T, F), F the features of the layer's output.

        Raises:
            What the layer raises, for another batch than the one before, too.
        """
        output, self.state = self.layer(chunk, self.state)
        return output

    @torch.no_grad()
    def step(self, sample: Tensor) -> Tensor:
        """The output of the next step: `sample` (B, I), or (I,) for one sequence.

        Returns:
            (B, F) or (F,).

        Raises:
            ValueError: for a sample that is not 1-D or 2-D.
            What the layer raises.
        """
        if sample.dim() not in (1, 2):
            raise ValueError(f"Stream: a step takes (I,) or (B, I), got {sample.dim()}D. Call the stream with a chunk")
        if sample.dim() == 2 and self.layer.batch_first:
            return self(sample.unsqueeze(1)).squeeze(1)
        return self(sample.unsqueeze(0)).squeeze(0)
