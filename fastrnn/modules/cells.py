"""RNNCell, LSTMCell, GRUCell: one step at a time, drop-ins for torch.nn's."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import Cell
from .layers import Device


class RNNCell(Cell):
    r"""One step of an Elman RNN: a drop-in for :class:`torch.nn.RNNCell`.

    .. math:: h' = \tanh(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    or relu for tanh, as in :class:`torch.nn.RNNCell`.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        bias: whether there are ``bias_ih`` and ``bias_hh``. Default True.
        nonlinearity: ``"tanh"`` (default) or ``"relu"``.
        device, dtype: of the parameters, as in torch.nn.

    Inputs: input, hx
        * **input**: (B, I), or (I,).
        * **hx**: (B, H), or (H,). Zeros by default.

    Outputs: hy
        * **hy**: as hx.

    Device and dtype: CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16, as in :class:`fastrnn.RNN`.
        Input, hx and weights share both; under autocast the results have its dtype.

    Attributes:
        weight_ih, weight_hh: (H, I) and (H, H).
        bias_ih, bias_hh: (H,), or None.

    Raises:
        ValueError: for an input or hx that is not 1-D or 2-D.
        RuntimeError: for a wrong number of features, an input or hx of the wrong shape, dtype or device, or, as in
            torch.nn at the first call, an unknown nonlinearity.
        NotImplementedError: for a device or dtype without kernels.
    """

    __constants__: ClassVar = ["input_size", "hidden_size", "bias", "nonlinearity"]  # type: ignore[misc]
    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    @property
    def _cell(self) -> str:  # type: ignore[override]
        """The cell of this nonlinearity; RuntimeError if there is none."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"RNNCell: unknown nonlinearity {self.nonlinearity!r}. Select from 'tanh' or 'relu'.")
        return "rnn_" + self.nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step; see the class for shapes and errors."""
        return self._run(input, hx)[0]


class LSTMCell(Cell):
    r"""One step of an LSTM: a drop-in for :class:`torch.nn.LSTMCell`.

    The equations of :class:`fastrnn.LSTM` without a projection, gates in the order i, f, g, o.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the states, H.
        bias: whether there are ``bias_ih`` and ``bias_hh``. Default True.
        device, dtype: of the parameters, as in torch.nn.

    Inputs: input, (hx, cx)
        * **input**: (B, I), or (I,).
        * **hx**, **cx**: (B, H), or (H,). Zeros by default. The pair may be a list, or the same tensor twice.

    Outputs: (hy, cy)
        * **hy**, **cy**: as hx and cx.

    Device and dtype: CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16, as in :class:`fastrnn.LSTM`.
        Input, states and weights share both; under autocast the results have its dtype.

    Attributes:
        weight_ih, weight_hh: (4*H, I) and (4*H, H).
        bias_ih, bias_hh: (4*H,), or None.

    Raises:
        ValueError: for an input or state that is not 1-D or 2-D.
        TypeError: for an hx that is one tensor.
        RuntimeError: for a wrong number of features, or an input or state of the wrong shape, dtype or device.
        NotImplementedError: for a device or dtype without kernels.
    """

    _cell = "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Run one step; see the class for shapes and errors."""
        hy, cy = self._run(input, hx)
        return hy, cy


class GRUCell(Cell):
    r"""One step of a GRU: a drop-in for :class:`torch.nn.GRUCell`.

    The equations of :class:`fastrnn.GRU`, gates in the order r, z, n.

    Args:
        input_size: features of the input, I.
        hidden_size: features of the state, H.
        bias: whether there are ``bias_ih`` and ``bias_hh``. Default True.
        device, dtype: of the parameters, as in torch.nn.

    Inputs: input, hx
        * **input**: (B, I), or (I,).
        * **hx**: (B, H), or (H,). Zeros by default.

    Outputs: hy
        * **hy**: as hx.

    Device and dtype: CPU, CUDA and meta tensors; float32, float64, bfloat16 and float16, as in :class:`fastrnn.GRU`.
        Input, hx and weights share both; under autocast the results have its dtype.

    Attributes:
        weight_ih, weight_hh: (3*H, I) and (3*H, H).
        bias_ih, bias_hh: (3*H,), or None.

    Raises:
        ValueError: for an input or hx that is not 1-D or 2-D.
        RuntimeError: for a wrong number of features, or an input or hx of the wrong shape, dtype or device.
        NotImplementedError: for a device or dtype without kernels.
    """

    _cell = "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Run one step; see the class for shapes and errors."""
        return self._run(input, hx)[0]
