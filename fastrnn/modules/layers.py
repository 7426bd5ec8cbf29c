"""RNN, LSTM, GRU: drop-ins for torch.nn's.

Constructors take ``*args`` where torch.nn's do, to accept and refuse what those accept and refuse.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import get_overloads, overload  # torch needs it, too; typing's get_overloads is of Python 3.11

from .._call.checks import check_nonlinearity
from .._call.ragged import Lengths
from .base import Layer, refuse_proj_size

Device = torch.device | str | int | None


class RNN(Layer):
    r"""Elman RNN with tanh or relu, over whole sequences: a drop-in for :class:`torch.nn.RNN`.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    The equations are those of :class:`torch.nn.RNN`; :func:`fastrnn.reference.elman_cell` is the code.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: layers stacked on another, L. Default 1.
        nonlinearity: ``"tanh"`` (default) or ``"relu"``.
        bias: whether there are ``b_ih`` and ``b_hh``. Default True.
        batch_first: input and output, but not states, are (B, T, features) in place of (T, B, features). Default False.
        dropout: probability of zeroing each output element of every layer but the last, in training. Default 0.
        bidirectional: a second direction (D = 2) runs from the last step to the first. Default False.
        device, dtype: of the parameters, as in torch.nn.
        options: what is more than torch.nn's, by keyword: see :class:`fastrnn.Options`.

    Inputs: input, hx
        * **input**: (T, B, I), (B, T, I) with ``batch_first``, (T, I) for one sequence, a
          ``PackedSequence``, or a nested tensor (B, T, I) of layout torch.jagged.
        * **hx**: (L*D, B, H), or (L*D, H) for one sequence. Zeros by default.
        * **lengths**: (B,), a tensor or list of integers within 0..T, in any order: the valid steps of each sequence in
          a padded batch. Output has T steps still, zero past each length; the reverse direction starts at the last
          valid step; hy is that of the last valid step, hx where the length is 0.
        * **resets**: bool, (T, B), (B, T) with ``batch_first`` or for a nested tensor, (T,) for one sequence; for a
          ``PackedSequence`` as for a padded batch as long as its longest sequence, in the order of the input. True at t
          cuts the state between t-1 and t in every layer: the forward direction replaces it before step t (at t = 0,
          hx), the reverse direction after it. No gradient crosses a cut.
        * **reset_state**: what replaces it: as hx, or with B = 1 for all sequences. Zeros by default.

    Outputs: output, hy
        * **output**: as input, with D*H features: the last layer's h_t for each t.
        * **hy**: as hx: each layer's and direction's h after its last step.

    Device and dtype:
        CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16. Input, hx and weights share both; under
        autocast the results have its dtype. Half types are computed in float32 on the CPU, and as they are on a GPU,
        with sums in float32; there float32 uses TF32 where ``torch.backends.cudnn.rnn`` allows it.

    Lengths on the GPU are not looked at, so that nothing waits for it; one outside 0..T counts as 0 or T. Those on the
    CPU are checked, and padded steps take no time then, but a CUDA graph cannot capture them.

    Attributes:
        weight_ih_l[k]: (H, I) for k = 0, else (H, D*H).
        weight_hh_l[k]: (H, H).
        bias_ih_l[k], bias_hh_l[k]: (H,). All weights and biases are there again with ``_reverse`` if bidirectional,
            and are drawn from :math:`U(-1/\sqrt H, 1/\sqrt H)`, as torch.nn draws.

    Raises:
        ValueError: at construction for an unknown nonlinearity, a ``proj_size``, sizes below 1 or a dropout outside
            [0, 1]; at a call for an input that is not 2-D or 3-D or has another dtype than the weights, or resets of
            the wrong shape.
        TypeError: at construction for a size that is not an int or a flag that is not a bool; at a call for resets that
            are not bool.
        RuntimeError: at a call for a wrong number of features, no steps, or an hx of the wrong shape, dtype or device.
        NotImplementedError: at a call for a device or dtype without kernels.

    Example::

        rnn = fastrnn.RNN(10, 20, num_layers=2)
        output, hy = rnn(torch.randn(5, 3, 10))  # (5, 3, 20), (2, 3, 20)
    """

    nonlinearity: str

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
        tbptt_steps: int | None = None,
        state_grad_clip: float | None = None,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        weight_dropout: float = 0.0,
        variational_dropout: float = 0.0,
        num_heads: int = 1,
    ) -> None: ...

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            refuse_proj_size("RNN")
        # nn.RNNBase has no nonlinearity: it is taken out of the middle of its positional arguments.
        nonlinearity = args[3] if len(args) > 3 else kwargs.pop("nonlinearity", "tanh")
        mode = check_nonlinearity(nonlinearity).upper()
        self.nonlinearity = nonlinearity  # before the parameters: a subclass's reset_parameters may read it
        super().__init__(mode, *args[:3], *args[4:], **kwargs)
        if self.proj_size:
            refuse_proj_size("RNN")

    @overload
    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: Tensor | None = None,
        *,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the sequence; see the class for shapes and errors."""
        output, states = self._run(input, hx, lengths, resets, reset_state, return_states)
        return output, states[0]


class LSTM(Layer):
    r"""Long short-term memory over whole sequences: a drop-in for :class:`torch.nn.LSTM`.

    .. math::
        \begin{array}{ll}
            i_t = \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
            f_t = \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
            g_t = \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
            o_t = \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
            c_t = f_t \odot c_{t-1} + i_t \odot g_t \\
            h_t = o_t \odot \tanh(c_t)
        \end{array}

    and with ``proj_size``, :math:`h_t = W_{hr} (o_t \odot \tanh(c_t))`. The equations are those of
    :class:`torch.nn.LSTM`; the projection is from https://arxiv.org/abs/1402.1128. :func:`fastrnn.reference.lstm_cell`
    is the code.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the cell state, H.
        num_layers: layers stacked on another, L. Default 1.
        bias: whether there are ``b_ih`` and ``b_hh``. Default True.
        batch_first: input and output, but not states, are (B, T, features) in place of (T, B, features). Default False.
        dropout: probability of zeroing each output element of every layer but the last, in training. Default 0.
        bidirectional: a second direction (D = 2) runs from the last step to the first. Default False.
        proj_size: features of h, P, below H; 0 (default) for no projection, and then P = H.
        device, dtype: of the parameters, as in torch.nn.
        options: what is more than torch.nn's, by keyword: see :class:`fastrnn.Options`.

    Inputs: input, (hx, cx)
        * **input**: (T, B, I), (B, T, I) with ``batch_first``, (T, I) for one sequence, a
          ``PackedSequence``, or a nested tensor (B, T, I) of layout torch.jagged.
        * **hx**: (L*D, B, P), or (L*D, P) for one sequence. Zeros by default.
        * **cx**: (L*D, B, H), or (L*D, H) for one sequence. The pair may be a list, or the same tensor twice.
        * **lengths**: (B,), a tensor or list of integers within 0..T, in any order: the valid steps of each sequence in
          a padded batch. Output has T steps still, zero past each length; the reverse direction starts at the last
          valid step; hy and cy are those of the last valid step, hx and cx where the length is 0.
        * **resets**: bool, (T, B), (B, T) with ``batch_first`` or for a nested tensor, (T,) for one sequence; for a
          ``PackedSequence`` as for a padded batch as long as its longest sequence, in the order of the input. True at t
          cuts the state between t-1 and t in every layer: the forward direction replaces it before step t (at t = 0,
          hx), the reverse direction after it. No gradient crosses a cut.
        * **reset_state**: what replaces it: as (hx, cx), or with B = 1 for all sequences. Zeros by default.
        * **return_states**: whether to return every step's c, too. Default False.

    Outputs: output, (hy, cy)
        * **output**: as input, with D*P features: the last layer's h_t for each t.
        * **hy**, **cy**: as hx and cx: each layer's and direction's states after its last step.
        * with ``return_states`` also **c_all**: as output, with D*H features: the last layer's c_t for each t.

    Device and dtype:
        CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16. Input, states and weights share both; under
        autocast the results have its dtype. Half types are computed in float32 on the CPU, and as they are on a GPU,
        with sums in float32; there float32 uses TF32 where ``torch.backends.cudnn.rnn`` allows it.

    Lengths on the GPU are not looked at, so that nothing waits for it; one outside 0..T counts as 0 or T. Those on the
    CPU are checked, and padded steps take no time then, but a CUDA graph cannot capture them.

    Attributes:
        weight_ih_l[k]: gates i, f, g, o, (4*H, I) for k = 0, else (4*H, D*P).
        weight_hh_l[k]: (4*H, P).
        weight_hr_l[k]: (P, H), only with ``proj_size``.
        bias_ih_l[k], bias_hh_l[k]: (4*H,). All weights and biases are there again with ``_reverse`` if bidirectional,
            and are drawn from :math:`U(-1/\sqrt H, 1/\sqrt H)`, as torch.nn draws.

    Raises:
        ValueError: at construction for sizes below 1, a ``proj_size`` not below ``hidden_size`` or a dropout outside
            [0, 1]; at a call for an input that is not 2-D or 3-D or has another dtype than the weights, or resets of
            the wrong shape.
        TypeError: at construction for a size that is not an int or a flag that is not a bool; at a call for resets that
            are not bool.
        RuntimeError: at a call for a wrong number of features, no steps, an hx that is one tensor, or states of a wrong
            shape, dtype or device.
        NotImplementedError: at a call for a device or dtype without kernels.

    Example::

        lstm = fastrnn.LSTM(10, 20, num_layers=2)
        output, (hy, cy) = lstm(torch.randn(5, 3, 10))  # (5, 3, 20), (2, 3, 20), (2, 3, 20)
    """

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        tbptt_steps: int | None = None,
        state_grad_clip: float | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        weight_dropout: float = 0.0,
        variational_dropout: float = 0.0,
        peephole: bool = False,
        coupled: bool = False,
        num_heads: int = 1,
        recompute: bool = False,
    ) -> None: ...

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    # What nn.LSTM's forward calls, for subclasses that brought a copy of it.
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    @overload
    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_states: Literal[False] = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...

    @overload
    def forward(
        self,
        input: Tensor,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_states: Literal[True],
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_states: Literal[False] = False,
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor]]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: tuple[Tensor, Tensor] | None = None,
        *,
        resets: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_states: Literal[True],
    ) -> tuple[PackedSequence, tuple[Tensor, Tensor], PackedSequence]: ...

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: tuple[Tensor, Tensor] | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the sequence; see the class for shapes and errors."""
        output, states = self._run(input, hx, lengths, resets, reset_state, return_states)
        if return_states:
            return output, states[:2], states[2]
        return output, states


class GRU(Layer):
    r"""Gated recurrent unit over whole sequences: a drop-in for :class:`torch.nn.GRU`.

    .. math::
        \begin{array}{ll}
            r_t = \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
            z_t = \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
            n_t = \tanh(W_{in} x_t + b_{in} + r_t \odot (W_{hn} h_{t-1} + b_{hn})) \\
            h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1}
        \end{array}

    The equations are those of :class:`torch.nn.GRU`, with the reset gate after the product;
    :func:`fastrnn.reference.gru_cell` is the code.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        num_layers: layers stacked on another, L. Default 1.
        bias: whether there are ``b_ih`` and ``b_hh``. Default True.
        batch_first: input and output, but not states, are (B, T, features) in place of (T, B, features). Default False.
        dropout: probability of zeroing each output element of every layer but the last, in training. Default 0.
        bidirectional: a second direction (D = 2) runs from the last step to the first. Default False.
        device, dtype: of the parameters, as in torch.nn; by keyword.
        options: what is more than torch.nn's, by keyword: see :class:`fastrnn.Options`.

    Inputs: input, hx
        * **input**: (T, B, I), (B, T, I) with ``batch_first``, (T, I) for one sequence, a
          ``PackedSequence``, or a nested tensor (B, T, I) of layout torch.jagged.
        * **hx**: (L*D, B, H), or (L*D, H) for one sequence. Zeros by default.
        * **lengths**: (B,), a tensor or list of integers within 0..T, in any order: the valid steps of each sequence in
          a padded batch. Output has T steps still, zero past each length; the reverse direction starts at the last
          valid step; hy is that of the last valid step, hx where the length is 0.
        * **resets**: bool, (T, B), (B, T) with ``batch_first`` or for a nested tensor, (T,) for one sequence; for a
          ``PackedSequence`` as for a padded batch as long as its longest sequence, in the order of the input. True at t
          cuts the state between t-1 and t in every layer: the forward direction replaces it before step t (at t = 0,
          hx), the reverse direction after it. No gradient crosses a cut.
        * **reset_state**: what replaces it: as hx, or with B = 1 for all sequences. Zeros by default.

    Outputs: output, hy
        * **output**: as input, with D*H features: the last layer's h_t for each t.
        * **hy**: as hx: each layer's and direction's h after its last step.

    Device and dtype:
        CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16. Input, hx and weights share both; under
        autocast the results have its dtype. Half types are computed in float32 on the CPU, and as they are on a GPU,
        with sums in float32; there float32 uses TF32 where ``torch.backends.cudnn.rnn`` allows it.

    Lengths on the GPU are not looked at, so that nothing waits for it; one outside 0..T counts as 0 or T. Those on the
    CPU are checked, and padded steps take no time then, but a CUDA graph cannot capture them.

    Attributes:
        weight_ih_l[k]: gates r, z, n, (3*H, I) for k = 0, else (3*H, D*H).
        weight_hh_l[k]: (3*H, H).
        bias_ih_l[k], bias_hh_l[k]: (3*H,). All weights and biases are there again with ``_reverse`` if bidirectional,
            and are drawn from :math:`U(-1/\sqrt H, 1/\sqrt H)`, as torch.nn draws.

    Raises:
        ValueError: at construction for a ``proj_size``, sizes below 1 or a dropout outside [0, 1]; at a call for an
            input that is not 2-D or 3-D or has another dtype than the weights, or resets of the wrong shape.
        TypeError: at construction for a size that is not an int or a flag that is not a bool; at a call for resets that
            are not bool.
        RuntimeError: at a call for a wrong number of features, no steps, or an hx of the wrong shape, dtype or device.
        NotImplementedError: at a call for a device or dtype without kernels.

    Example::

        gru = fastrnn.GRU(10, 20, num_layers=2)
        output, hy = gru(torch.randn(5, 3, 10))  # (5, 3, 20), (2, 3, 20)
    """

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
        tbptt_steps: int | None = None,
        state_grad_clip: float | None = None,
        layer_norm: bool = False,
        zoneout: float = 0.0,
        weight_dropout: float = 0.0,
        variational_dropout: float = 0.0,
        reset_after: bool = True,
        num_heads: int = 1,
        recompute: bool = False,
    ) -> None: ...

    @overload
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            refuse_proj_size("GRU")
        super().__init__("GRU", *args, **kwargs)
        if self.proj_size:
            refuse_proj_size("GRU")

    @overload
    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...

    @overload
    def forward(
        self,
        input: PackedSequence,
        hx: Tensor | None = None,
        *,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
    ) -> tuple[PackedSequence, Tensor]: ...

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Lengths | None = None,
        resets: Tensor | None = None,
        reset_state: Tensor | None = None,
        return_states: bool = False,
    ) -> Any:
        """Run the sequence; see the class for shapes and errors."""
        output, states = self._run(input, hx, lengths, resets, reset_state, return_states)
        return output, states[0]


# For help() and editors: the constructors themselves take *args.
for _kind in (RNN, LSTM, GRU):
    _constructor: Any = _kind.__init__
    _constructor.__signature__ = inspect.signature(get_overloads(_constructor)[0], eval_str=True)
