"""The layers and cells without modules: weights come in as a list.

Each function normalises its arguments (unbatched input, ``batch_first``, ``PackedSequence``, layers, directions and
dropout between layers, all in ``fastrnn/_call/run.py``) and hands the layers, together or one at a time, to
``fastrnn._ops.autograd.run``, which knows nothing of all that.

Shapes, with T steps, B sequences, I = input_size, H = hidden_size, P = proj_size or else H, D = 2 if bidirectional else
1, L = num_layers:

* ``input``: (T, B, I); (B, T, I) with ``batch_first``; (T, I) for a single sequence; or a ``PackedSequence``.
* ``hx``: (L*D, B, P), the LSTM's ``cx``: (L*D, B, H); without B for a single sequence. None means zeros.
* ``weights``: for each layer, for each direction: ``w_ih`` (G*H, I or D*P), ``w_hh`` (G*H, P), with ``bias`` then
  ``b_ih`` and ``b_hh`` (G*H), with ``proj_size`` then ``w_hr`` (P, H); G is 1, 4 (i, f, g, o) or 3 (r, z, n). The
  order of ``module._flat_weights`` in torch.nn.
* ``output``: as input, with D*P features; ``hy`` (and ``cy``): as ``hx`` (and ``cx``).

All tensors share one device, "cpu", "cuda" or "meta", and one dtype: float32, float64, bfloat16 or float16; see
:class:`fastrnn.LSTM` for how each is computed.

Raises, in every function: ValueError for an input of the wrong rank, of another dtype than the weights, or too many or
too few weights; RuntimeError for a wrong number of features, no steps at all, or a state of the wrong shape, dtype or
device; NotImplementedError for a dtype or device without kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ._call.checks import LAYER_NAMES, check_nonlinearity, check_weight_count, hidden_size_of
from ._call.run import run_cell, run_stack

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn", "rnn_cell"]


def rnn(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    nonlinearity: str = "tanh",
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
    training: bool = False,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """Elman RNN: ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu. See the module for shapes and errors.

    Equations: :func:`fastrnn.reference.elman_cell`.

    Args:
        input, hx, weights: see the module.
        nonlinearity: "tanh" or "relu"; ValueError for another.
        num_layers, bias, batch_first, bidirectional: as in :class:`fastrnn.RNN`.
        dropout: probability of zeroing each element of a layer's output but the last layer's, if ``training``.

    Returns:
        output, hy.
    """
    cell = check_nonlinearity(nonlinearity)
    stack = _describe(cell, weights, num_layers, bias, batch_first, dropout, bidirectional, 0, training)
    output, states = run_stack(stack, input, hx, weights)
    return output, states[0]


def gru(
    input: Tensor | PackedSequence,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
    training: bool = False,
) -> tuple[Tensor | PackedSequence, Tensor]:
    """GRU, gates r, z, n. See the module for shapes and errors.

    Equations: :func:`fastrnn.reference.gru_cell`.

    Args:
        input, hx, weights: see the module.
        num_layers, bias, batch_first, bidirectional: as in :class:`fastrnn.GRU`.
        dropout: probability of zeroing each element of a layer's output but the last layer's, if ``training``.

    Returns:
        output, hy.
    """
    stack = _describe("gru", weights, num_layers, bias, batch_first, dropout, bidirectional, 0, training)
    output, states = run_stack(stack, input, hx, weights)
    return output, states[0]


def lstm(
    input: Tensor | PackedSequence,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    num_layers: int = 1,
    bias: bool = True,
    batch_first: bool = False,
    dropout: float = 0.0,
    bidirectional: bool = False,
    proj_size: int = 0,
    training: bool = False,
) -> tuple[Tensor | PackedSequence, tuple[Tensor, Tensor]]:
    """LSTM, gates i, f, g, o, with an optional projection. See the module for shapes and errors.

    Equations: :func:`fastrnn.reference.lstm_cell`.

    Args:
        input, weights: see the module.
        hx: (hx, cx) as a tuple or a list, or None for zeros.
        num_layers, bias, batch_first, bidirectional, proj_size: as in :class:`fastrnn.LSTM`.
        dropout: probability of zeroing each element of a layer's output but the last layer's, if ``training``.

    Returns:
        output, (hy, cy).
    """
    stack = _describe("lstm", weights, num_layers, bias, batch_first, dropout, bidirectional, proj_size, training)
    output, states = run_stack(stack, input, hx, weights)
    return output, (states[0], states[1])


def rnn_cell(input: Tensor, hx: Tensor | None, weights: Sequence[Tensor], *, nonlinearity: str = "tanh") -> Tensor:
    """One step of :func:`rnn`.

    Args:
        input: (B, I) or (I,).
        hx: (B, H) or (H,); None means zeros.
        weights: ``w_ih`` (H, I), ``w_hh`` (H, H), and perhaps ``b_ih`` and ``b_hh`` (H,).
        nonlinearity: "tanh" or "relu"; ValueError for another.

    Returns:
        hy, (B, H) or (H,).
    """
    return run_cell(check_nonlinearity(nonlinearity), input, hx, weights)[0]


def gru_cell(input: Tensor, hx: Tensor | None, weights: Sequence[Tensor]) -> Tensor:
    """One step of :func:`gru`.

    Args:
        input: (B, I) or (I,).
        hx: (B, H) or (H,); None means zeros.
        weights: ``w_ih`` (3H, I), ``w_hh`` (3H, H), and perhaps ``b_ih`` and ``b_hh`` (3H,).

    Returns:
        hy, (B, H) or (H,).
    """
    return run_cell("gru", input, hx, weights)[0]


def lstm_cell(input: Tensor, hx: tuple[Tensor, Tensor] | None, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One step of :func:`lstm`.

    Args:
        input: (B, I) or (I,).
        hx: (hx, cx), each (B, H) or (H,); None means zeros.
        weights: ``w_ih`` (4H, I), ``w_hh`` (4H, H), and perhaps ``b_ih`` and ``b_hh`` (4H,).

    Returns:
        hy, cy, each (B, H) or (H,).
    """
    states = run_cell("lstm", input, hx, weights)
    return states[0], states[1]


@dataclass(slots=True)
class _Stack:
    """A :class:`fastrnn._call.arguments.Stack` without a module."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool


def _describe(
    cell: str,
    weights: Sequence[Tensor],
    num_layers: int,
    bias: bool,
    batch_first: bool,
    dropout: float,
    bidirectional: bool,
    proj_size: int,
    training: bool,
) -> _Stack:
    """The stack that options and weights make together; ValueError if they don't."""
    per_direction = 2 + (2 if bias else 0) + (1 if proj_size else 0)
    check_weight_count(LAYER_NAMES[cell], weights, num_layers * (2 if bidirectional else 1) * per_direction)
    input_size, hidden_size = weights[0].shape[1], hidden_size_of(cell, weights)
    return _Stack(
        cell.upper(), input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, proj_size, training
    )
