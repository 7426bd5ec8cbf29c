"""Layers and cells that are fastrnn's and torch.nn's at once: what ``convert`` and ``patched`` put in a model.

Code asks ``isinstance(layer, nn.LSTM)`` to initialise, to tell states apart, or to refuse what it does not know; a
layer that answers no is skipped without a word. These answer yes. The price: torch.compile leaves instances of nn.RNN,
nn.LSTM and nn.GRU out of its graphs, whatever their forward, so :class:`fastrnn.LSTM` itself is none of them.
"""

from __future__ import annotations

import copy
import warnings
from functools import cache
from typing import Any

import torch
from torch import nn

from . import modules
from .modules.base import Refusals

# What Dynamo calls at each frame while it compiles. It is private to torch: one without it gets no warning.
_frame_callback = getattr(torch._C._dynamo.eval_frame, "get_eval_frame_callback", lambda: None)


class _Scriptable(Refusals, nn.Module):
    """What torch.jit.script compiles as the torch.nn module that it is, too."""

    def __prepare_scriptable__(self) -> nn.Module:
        from .adopt import TORCHS, to_torch

        if type(self) not in TORCHS or getattr(self, "options", None) is not None:
            return super().__prepare_scriptable__()
        warnings.warn(
            f"torch.jit.script compiles torch.nn.{type(self).__name__}, with the same parameters, and leaves it in the "
            "model that it is given, too. To go on with fastrnn's there: fastrnn.convert(model)",
            stacklevel=2,
        )
        return to_torch(copy.copy(self))


class _OutsideGraphs:
    """What torch.compile leaves out of its graphs, and says so, once."""

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling() and _frame_callback():  # called between two graphs
            _warn_of_graph_breaks()
        return super()._run(*args, **kwargs)  # type: ignore[misc]


@cache
def _warn_of_graph_breaks() -> None:
    warnings.warn(
        "torch.compile leaves converted RNN, LSTM and GRU layers out of its graphs, since they are torch.nn's, too. "
        "They run as they do without it; to have them in: fastrnn.convert(model, fullgraph=True)",
        stacklevel=5,  # what calls the layer
    )


class RNN(_OutsideGraphs, _Scriptable, modules.RNN, nn.RNN):
    """A :class:`fastrnn.RNN` that is an :class:`torch.nn.RNN`, too."""


class LSTM(_OutsideGraphs, _Scriptable, modules.LSTM, nn.LSTM):
    """A :class:`fastrnn.LSTM` that is an :class:`torch.nn.LSTM`, too."""


class GRU(_OutsideGraphs, _Scriptable, modules.GRU, nn.GRU):
    """A :class:`fastrnn.GRU` that is an :class:`torch.nn.GRU`, too."""


class RNNCell(_Scriptable, modules.RNNCell, nn.RNNCell):
    """A :class:`fastrnn.RNNCell` that is an :class:`torch.nn.RNNCell`, too."""


class LSTMCell(_Scriptable, modules.LSTMCell, nn.LSTMCell):
    """A :class:`fastrnn.LSTMCell` that is an :class:`torch.nn.LSTMCell`, too."""


class GRUCell(_Scriptable, modules.GRUCell, nn.GRUCell):
    """A :class:`fastrnn.GRUCell` that is an :class:`torch.nn.GRUCell`, too."""
