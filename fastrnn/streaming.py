"""Online inference: a layer whose states stay with it from call to call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks

from . import adopted
from ._call import checks, precision
from ._ops.cells import CELLS
from ._ops.step import run_step
from ._options import random_options
from .modules import GRU, LSTM, RNN
from .modules.base import Layer
from .modules.weights import current_weights

# By class, what its forward is unless someone has set another: on the class, or on a layer.
_FORWARDS = {kind: kind.forward for kind in (RNN, LSTM, GRU, adopted.RNN, adopted.LSTM, adopted.GRU)}


class Stream:
    """A layer that reads a sequence as it arrives, sample by sample or in chunks, and keeps its states in between.

    What it returns is what the layer would return for the whole sequence, but for rounding. No gradients are recorded.
    Hooks, the layer's own and global ones, and a ``forward`` that was set on the layer run at every step, as they do
    when the layer is called.

    Args:
        layer: an :class:`fastrnn.RNN`, :class:`fastrnn.LSTM` or :class:`fastrnn.GRU` of one direction. Writing to its
            parameters, loading a state_dict and moving it take effect from the next call on; after moving it to another
            device or dtype call :meth:`reset`.
        pack: whether to call ``layer.pack_weights()``, which packs the recurrent weights once, where that serves the
            layer and they are not packed in a narrower dtype already. Default True.
        freeze: the older name of `pack`.

    Attributes:
        state: hx of the next call as the layer takes it, None before the first one; may be assigned.

    Warns:
        UserWarning: at the first call that finds the layer in training mode with dropout or zoneout, which make its
            output random; call ``layer.eval()`` first.

    Raises:
        TypeError: for a layer of another kind.
        ValueError: for a bidirectional layer, which has to see the end of a sequence first.

    Example::

        stream = fastrnn.Stream(fastrnn.GRU(3, 8).eval())
        for sample in torch.randn(100, 3):
            output = stream.step(sample)  # (8,)
        output = stream(torch.randn(20, 3))  # the next 20 samples: (20, 8)
    """

    def __init__(self, layer: Layer, pack: bool = True, *, freeze: bool | None = None) -> None:
        if not isinstance(layer, Layer):
            raise TypeError(f"Stream takes a fastrnn.RNN, LSTM or GRU, got {checks.describe_module(layer)}")
        if layer.bidirectional:
            raise ValueError(
                "Stream: a bidirectional layer starts at the end of a sequence, which a stream has not seen"
            )
        self.layer = layer
        self._state: Any = None
        self._by_layer: list[Sequence[Tensor]] = []  # the state as steps hand it on: (B, features) tensors; or none
        self._batched = True  # whether those came of batches
        self._warned = False  # of training mode
        rounded = layer._frozen is not None and layer._frozen.dtype is not None
        if (pack if freeze is None else freeze) and not rounded and not layer._why_not_packed():
            layer.pack_weights()

    @property
    def state(self) -> Any:
        if self._by_layer:
            join = torch.stack if self._batched else torch.cat
            joined = tuple([join(states) for states in zip(*self._by_layer, strict=True)])
            self._state, self._by_layer = joined if len(joined) > 1 else joined[0], []
        return self._state

    @state.setter
    def state(self, state: Any) -> None:
        self._state, self._by_layer = state, []

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

    def __call__(self, chunk: Tensor) -> Tensor:
        """The outputs of the next steps: `chunk` (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence.

        Returns:
            (T, B, F), (B, T, F) or (T, F), F the features of the layer's output.

        Raises:
            What the layer raises, for another batch than the one before, too.
        """
        self._warn_of_training()
        return self._run(chunk)

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
        if self._is_plain(sample):
            with torch.no_grad():
                return self._plain_step(sample)
        self._warn_of_training()
        if sample.dim() == 2 and self.layer.batch_first:
            return self._run(sample.unsqueeze(1)).squeeze(1)
        return self._run(sample.unsqueeze(0)).squeeze(0)

    @torch.no_grad()
    def _run(self, chunk: Tensor) -> Tensor:
        output, self.state = self.layer(chunk, self.state)
        return output

    def _warn_of_training(self) -> None:
        """For the methods that users call. Not at construction: the layer may be told to eval() after it."""
        layer = self.layer
        if self._warned or not layer.training:
            return
        names = random_options(layer)
        if names:
            self._warned = True
            warnings.warn(
                f"Stream: the layer is in training mode, so its output is random ({', '.join(names)}). Call "
                "layer.eval() first, unless that is what you want",
                stacklevel=3,
            )

    def _is_plain(self, sample: Tensor) -> bool:
        """Whether a step is those of cells, one on another: a layer's call would take twice as long at B = 1, H = 64.

        All that is out of the ordinary, a first step and wrong arguments among it, is left to the layer.
        """
        layer = self.layer
        kind = type(layer)
        if not (
            kind in _FORWARDS
            and kind.forward is _FORWARDS[kind]
            and "forward" not in layer.__dict__
            and layer._compiled_call_impl is None
            and layer._options is None
            and not (layer.training and layer.dropout > 0)
            and not (layer._forward_hooks or layer._forward_pre_hooks)
            and not (_global_forward_hooks or _global_forward_pre_hooks)
            and precision.computed_as_is(sample, precision.result_dtype(sample))
        ):
            return False
        if not self._by_layer and not self._take_apart():
            return False
        batch = sample.shape[0] if sample.dim() == 2 else 1
        h, weight = self._by_layer[0][0], layer._parameters.get("weight_ih_l0")  # or a plain tensor: no hurry then
        return (
            self._batched == (sample.dim() == 2)
            and h.shape[0] == batch
            and sample.shape[-1] == layer.input_size
            and weight is not None
            and h.dtype == sample.dtype == weight.dtype
            and h.device == sample.device == weight.device
        )

    def _take_apart(self) -> bool:
        """The state as steps hand it on, from hx as the layer takes it; False if it is not in that form."""
        states = self._state if isinstance(self._state, tuple) else (self._state,)
        layer = self.layer
        cell_states = CELLS[layer.mode.lower()].states - 1
        sizes = (layer.proj_size or layer.hidden_size, *[layer.hidden_size] * cell_states)
        if len(states) != len(sizes) or not all(isinstance(state, Tensor) for state in states):
            return False
        batch = states[0].shape[1:-1]
        if len(batch) > 1 or any(
            state.shape != (layer.num_layers, *batch, size) for state, size in zip(states, sizes, strict=True)
        ):
            return False
        self._batched = len(batch) == 1
        by_state = [state.unbind(0) if self._batched else state.split(1) for state in states]
        self._by_layer = list(zip(*by_state, strict=True))
        return True

    def _plain_step(self, sample: Tensor) -> Tensor:
        layer, x = self.layer, sample if self._batched else sample.unsqueeze(0)
        cell, weights = layer.mode.lower(), current_weights(layer, layer._flat_weights_names)
        frozen = layer._frozen_weights(weights)
        each = len(weights) // layer.num_layers
        after: list[Sequence[Tensor]] = []
        for index, states in enumerate(self._by_layer):
            own = weights[index * each : (index + 1) * each]
            x, *states_after = run_step(cell, x, states, own, frozen.by_layer[index] if frozen else None)
            after.append(states_after)
        self._by_layer = after
        return x if self._batched else x.squeeze(0)
