"""fastrnn: recurrent layers as drop-ins for torch.nn's, on kernels that run whole sequences.

import fastrnn

lstm = fastrnn.LSTM(input_size=64, hidden_size=128, num_layers=2)  # as torch.nn.LSTM
output, (hy, cy) = lstm(input)
print(fastrnn.explain(lstm, input))  # which kernel runs, and why
"""

import torch  # noqa: F401  (first: the extension links against libraries that torch loads)

from . import cuda, functional
from ._cell.define import cell
from ._explanation import Explanation
from ._ops import flops as _flops  # noqa: F401  (lets torch count what the ops compute)
from ._ops import public as _public  # noqa: F401  (gives the ops their gradients)
from ._options import Options
from .adopt import Patched, Report, convert, patched, to_torch
from .explain import explain
from .modules import GRU, LSTM, RNN, GRUCell, JordanRNN, LSTMCell, RNNCell
from .packing import pack, unpack
from .papers import SLSTM, SRU, IndRNN, LiGRU, MinGRU, MinLSTM
from .streaming import Stream

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "SRU",
    "Explanation",
    "GRUCell",
    "IndRNN",
    "JordanRNN",
    "LSTMCell",
    "LiGRU",
    "MinGRU",
    "MinLSTM",
    "Options",
    "Patched",
    "RNNCell",
    "Report",
    "Stream",
    "cell",
    "convert",
    "cuda",
    "explain",
    "functional",
    "pack",
    "patched",
    "to_torch",
    "unpack",
]
