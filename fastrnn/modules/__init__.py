"""The layers and cells as modules."""

from .cells import GRUCell, LSTMCell, RNNCell
from .jordan import JordanRNN
from .layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "JordanRNN", "LSTMCell", "RNNCell"]
