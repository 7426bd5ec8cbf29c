"""JordanRNN: the simple recurrences of the textbooks, of which torch.nn has one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._call import checks, ragged
from .._call.modifiers import Modifiers
from .._call.run import run_stack
from .._options import DEFAULTS
from ..reference import ACTIVATIONS
from .base import Refusals, is_traced, traced_call
from .opacus_hooks import OpacusHooks

RECURRENCES = ("hidden_to_hidden", "output_to_hidden", "output_to_output")


@dataclass(slots=True)
class Recurrence:
    """What of a :class:`JordanRNN` runs through time: a :class:`fastrnn._call.arguments.Stack`, input and weights."""

    mode: str
    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    training: bool
    activations: tuple[str, str]
    input: Any
    weights: list[Tensor]

    def modifiers(self, resets: Tensor | None, reset_state: Tensor | None) -> Modifiers:
        """What a call of it is beyond torch.nn's."""
        return Modifiers(DEFAULTS, resets, reset_state, False, self.activations)


class JordanRNN(Refusals, OpacusHooks, nn.Module):
    r"""A simple recurrence with an output layer, where hidden state or output comes back (M. I. Jordan, "Serial order:
    a parallel distributed processing approach", 1986; J. L. Elman, "Finding structure in time", 1990).

    With :math:`s_h, s_o` the nonlinearities, ``recurrence`` is one of

    - ``"hidden_to_hidden"``: :math:`h_t = s_h(W_{xh} x_t + W_{hh} h_{t-1} + b_h), \quad o_t = s_o(W_{ho} h_t + b_o)`
    - ``"output_to_hidden"``: :math:`h_t = s_h(W_{xh} x_t + W_{oh} o_{t-1} + b_h), \quad o_t = s_o(W_{ho} h_t + b_o)`
    - ``"output_to_output"``: :math:`h_t = s_h(W_{xh} x_t + b_h), \quad o_t = s_o(W_{ho} h_t + W_{oo} o_{t-1} + b_o)`

    :func:`fastrnn.reference.jordan_cell` is the code of a step.

    Args:
        input_size: features of the input, I.
        hidden_size: features of h, H.
        output_size: features of the output, O.
        recurrence: what comes back, and where. Default ``"output_to_hidden"``.
        nonlinearity: :math:`s_h`: ``"tanh"`` (default), ``"relu"``, ``"sigmoid"`` or ``"identity"``.
        output_nonlinearity: :math:`s_o`, of the same. Default ``"identity"``.
        bias: whether there are ``bias_h`` and ``bias_o``. Default True.
        batch_first: input and output, but not the state, are (B, T, features) in place of (T, B, features). Default
            False.
        device, dtype: of the parameters, as in torch.nn.

    Inputs: input, hx
        * **input**: (T, B, I), (B, T, I) with ``batch_first``, (T, I) for one sequence, or a ``PackedSequence``.
        * **hx**: what comes back at the first step: (1, B, H) for ``"hidden_to_hidden"``, else (1, B, O); without B for
          one sequence. Zeros by default.
        * **lengths**, **resets**, **reset_state**: as :class:`fastrnn.RNN` takes them.

    Outputs: output, state
        * **output**: as input, with O features: every o_t; of padded steps zero.
        * **state**: as hx: the last h_t for ``"hidden_to_hidden"``, else the last o_t.

    Device and dtype: as in :class:`fastrnn.RNN`.

    Attributes:
        weight_ih: (H, I).
        weight_hh, weight_oh, weight_oo: (H, H), (H, O) or (O, O); only that of the recurrence is there.
        weight_ho: (O, H).
        bias_h, bias_o: (H,) and (O,). Weights and biases are drawn from :math:`U(-1/\sqrt H, 1/\sqrt H)`.

    Raises:
        ValueError: at construction for an unknown recurrence or nonlinearity, or sizes below 1; at a call for an input
            that is not 2-D or 3-D, or has another dtype than the weights.
        TypeError: at construction for a size that is not an int or a flag that is not a bool; at a call for resets that
            are not bool.
        RuntimeError: at a call for a wrong number of features, no steps, or an hx of the wrong shape, dtype or device.

    Example::

        rnn = fastrnn.JordanRNN(10, 20, 5)
        output, state = rnn(torch.randn(7, 3, 10))  # (7, 3, 5), (1, 3, 5)
    """

    weight_ih: Tensor
    weight_hh: Tensor
    weight_oh: Tensor
    weight_oo: Tensor
    weight_ho: Tensor
    bias_h: Tensor
    bias_o: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        recurrence: str = "output_to_hidden",
        nonlinearity: str = "tanh",
        output_nonlinearity: str = "identity",
        bias: bool = True,
        batch_first: bool = False,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("output_size", output_size)):
            if not isinstance(size, int) or isinstance(size, bool):
                raise TypeError(f"JordanRNN: {name} should be of type int, got: {type(size).__name__}")
            if size < 1:
                raise ValueError(f"JordanRNN: {name} must be greater than zero, got {size}")
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"JordanRNN: {name} should be of type bool, got: {type(flag).__name__}")
        for name, value, known in (
            ("recurrence", recurrence, RECURRENCES),
            ("nonlinearity", nonlinearity, ACTIVATIONS),
            ("output_nonlinearity", output_nonlinearity, ACTIVATIONS),
        ):
            if value not in known:
                raise ValueError(f"JordanRNN: unknown {name} {value!r}: choose one of {', '.join(known)}")
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.recurrence, self.nonlinearity, self.output_nonlinearity = recurrence, nonlinearity, output_nonlinearity
        self.bias, self.batch_first = bias, batch_first
        shapes = {
            "weight_ih": (hidden_size, input_size),
            "weight_hh": (hidden_size, hidden_size),
            "weight_oh": (hidden_size, output_size),
            "weight_oo": (output_size, output_size),
            "weight_ho": (output_size, hidden_size),
            "bias_h": (hidden_size,),
            "bias_o": (output_size,),
        }
        for name, shape in shapes.items():
            if name in ("weight_ih", "weight_ho", self._recurrent_weight) or (bias and name.startswith("bias")):
                self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def _recurrent_weight(self) -> str:
        source, _, target = self.recurrence.split("_")
        return f"weight_{source[0]}{target[0]}"

    def reset_parameters(self) -> None:
        """Draw all parameters anew from U(-1/sqrt(H), 1/sqrt(H))."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        defaults = {
            "recurrence": "output_to_hidden",
            "nonlinearity": "tanh",
            "output_nonlinearity": "identity",
            "bias": True,
            "batch_first": False,
        }
        changed = [
            f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value
        ]
        return ", ".join([f"{self.input_size}, {self.hidden_size}, {self.output_size}", *changed])

    def forward(
        self,
        input: Any,
        hx: Tensor | None = None,
        *,
        lengths: ragged.Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Any, Tensor]:
        """Run the sequence; see the class for shapes and errors."""
        if is_traced(input) or is_traced(hx):
            call = traced_call(self, input, hx, lengths=lengths, resets=resets, reset_state=reset_state)
            return call[0], call[1]
        stack = self._recurrence_of(input)
        modifiers = stack.modifiers(resets, reset_state)
        output, states = run_stack(stack, stack.input, hx, stack.weights, lengths, modifiers=modifiers)
        if self.recurrence != "hidden_to_hidden":
            return output, states[0]
        output = _pointwise(output, self.weight_ho, self.bias_o if self.bias else None, self.output_nonlinearity)
        if lengths is not None:  # zero, which a bias and a nonlinearity do not keep
            lengths = ragged.as_tensor("JordanRNN", lengths)
            output = output * _running(output, lengths, self.batch_first)
        return output, states[0]

    def _recurrence_of(self, input: Tensor | PackedSequence) -> Recurrence:
        """What runs through time, given the module's input: what does not is multiplied before or behind it."""
        hidden, output = self.hidden_size, self.output_size
        b_h, b_o = (self.bias_h, self.bias_o) if self.bias else (None, None)
        activations = (self.nonlinearity, self.output_nonlinearity)
        sizes = self.input_size, hidden, 0
        if self.recurrence == "output_to_output":
            features = input.data.shape[-1] if isinstance(input, PackedSequence) else input.shape[-1]
            checks.check_sizes("JordanRNN", 1, features, self.input_size)
            input = _pointwise(input, self.weight_ih, b_h, self.nonlinearity)
            sizes, activations = (hidden, output, 0), (self.output_nonlinearity, "identity")
            weights = [self.weight_ho, self.weight_oo, *_biases(b_o)]
        elif self.recurrence == "output_to_hidden":
            sizes = self.input_size, hidden, output
            weights = [self.weight_ih, self.weight_oh, *_biases(b_h), self.weight_ho]
            weights += [] if b_o is None else [b_o]
        else:
            weights = [self.weight_ih, self.weight_hh, *_biases(b_h)]
        input_size, hidden_size, proj_size = sizes
        settings = 1, self.batch_first, 0.0, False, proj_size, self.training, activations
        return Recurrence("JORDAN", input_size, hidden_size, *settings, input, weights)


def _biases(bias: Tensor | None) -> list[Tensor]:
    """The two that the kernels add, of one."""
    return [] if bias is None else [bias, torch.zeros_like(bias)]


def _pointwise(data: Any, weight: Tensor, bias: Tensor | None, activation: str) -> Any:
    """A layer without time, of each row of padded or packed data."""
    if isinstance(data, PackedSequence):
        return PackedSequence(_pointwise(data.data, weight, bias, activation), *data[1:])
    return ACTIVATIONS[activation](F.linear(data, weight, bias))


def _running(output: Tensor, lengths: Tensor, batch_first: bool) -> Tensor:
    """1 where a sequence runs, else 0; broadcasts with output."""
    if output.dim() == 2:
        time, ends = torch.arange(output.shape[0], device=output.device), lengths.to(output.device)
        return (time < ends).to(output.dtype).unsqueeze(1)
    steps = output.shape[1 if batch_first else 0]
    time, ends = torch.arange(steps, device=output.device), lengths.to(output.device)
    running = time < ends.unsqueeze(1) if batch_first else time.unsqueeze(1) < ends
    return running.to(output.dtype).unsqueeze(2)
