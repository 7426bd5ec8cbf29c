"""Recurrences of papers, each written as users write theirs: a function of one step, by :func:`fastrnn.cell`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from ._cell.define import cell
from ._cell.own import OwnCell
from .modules.own import OwnLayer, OwnStep


@cell(gates=("z", "a"))
def LiGRU(x, r, h):  # type: ignore[no-untyped-def]  # noqa: N802
    r"""Light GRU (M. Ravanelli et al., "Light gated recurrent units for speech recognition", 2018, arXiv:1803.10225),
    without its batch normalisation.

    .. math::
        \begin{aligned}
        z_t &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        a_t &= \mathrm{relu}(W_{ia} x_t + b_{ia} + W_{ha} h_{t-1} + b_{ha}) \\
        h_t &= z_t \odot h_{t-1} + (1 - z_t) \odot a_t
        \end{aligned}

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`.

    Attributes:
        weight_ih_l[k]: (2H, I) for k = 0, else (2H, D*H): z, a.
        weight_hh_l[k]: (2H, H).
        bias_ih_l[k], bias_hh_l[k]: (2H,).
    """
    z = torch.sigmoid(x.z + r.z)
    a = torch.relu(x.a + r.a)
    return z * h + (1 - z) * a


def _positive(x):  # type: ignore[no-untyped-def]
    """The g of minGRU and minLSTM."""
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


@cell(gates=("z", "h"), recurrent="none")
def MinGRU(x, h):  # type: ignore[no-untyped-def]  # noqa: N802
    r"""minGRU (L. Feng et al., "Were RNNs all we needed?", 2024, arXiv:2410.01201).

    .. math::
        \begin{aligned}
        z_t &= \sigma(W_z x_t + b_z) \\
        h_t &= (1 - z_t) \odot h_{t-1} + z_t \odot g(W_h x_t + b_h)
        \end{aligned}

    with :math:`g(x) = x + 0.5` for :math:`x \ge 0`, else :math:`\sigma(x)`, as the paper has it where it computes in
    logarithms, so that h stays positive.

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`.

    Attributes:
        weight_ih_l[k]: (2H, I) for k = 0, else (2H, D*H): z, h.
        bias_ih_l[k]: (2H,).
    """
    z = torch.sigmoid(x.z)
    return (1 - z) * h + z * _positive(x.h)


@cell(gates=("f", "i", "h"), recurrent="none")
def MinLSTM(x, h):  # type: ignore[no-untyped-def]  # noqa: N802
    r"""minLSTM (L. Feng et al., "Were RNNs all we needed?", 2024, arXiv:2410.01201).

    .. math::
        \begin{aligned}
        f_t &= \sigma(W_f x_t + b_f), \quad i_t = \sigma(W_i x_t + b_i) \\
        h_t &= \frac{f_t}{f_t + i_t} \odot h_{t-1} + \frac{i_t}{f_t + i_t} \odot g(W_h x_t + b_h)
        \end{aligned}

    with the :math:`g` of :class:`MinGRU`.

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`.

    Attributes:
        weight_ih_l[k]: (3H, I) for k = 0, else (3H, D*H): f, i, h.
        bias_ih_l[k]: (3H,).
    """
    # f / (f + i), which would be 0 / 0 where both underflow.
    f = torch.sigmoid(F.logsigmoid(x.f) - F.logsigmoid(x.i))
    return f * h + (1 - f) * _positive(x.h)


@cell(gates=("f", "r", "c"), states=("c",), recurrent="none", weights=("v_f", "v_r"), input=True, output="h")
def SRU(input, x, c, *, v_f, v_r):  # type: ignore[no-untyped-def]  # noqa: N802
    r"""Simple recurrent unit (T. Lei et al., "Simple recurrent units for highly parallelizable recurrence", 2018,
    arXiv:1709.02755).

    .. math::
        \begin{aligned}
        f_t &= \sigma(W_f x_t + b_f + v_f \odot c_{t-1}) \\
        r_t &= \sigma(W_r x_t + b_r + v_r \odot c_{t-1}) \\
        c_t &= f_t \odot c_{t-1} + (1 - f_t) \odot (W_c x_t + b_c) \\
        h_t &= r_t \odot c_t + (1 - r_t) \odot x_t
        \end{aligned}

    The output is h, hx and hy are c. Where I is not H, :math:`W_x x_t` takes the place of the last :math:`x_t`. The
    paper has no :math:`b_c`, and may scale the last term, which :math:`W_x` can do.

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`.

    Attributes:
        weight_ih_l[k]: (3H, I) for k = 0, else (3H, D*H): f, r, c; where the input has not H features, 4H rows, the
            last of W_x.
        bias_ih_l[k]: (3H,).
        v_f_l[k], v_r_l[k]: (H,).
    """
    f = torch.sigmoid(x.f + v_f * c)
    r = torch.sigmoid(x.r + v_r * c)
    c = f * c + (1 - f) * x.c
    return r * c + (1 - r) * input, c


class _Chosen:
    """A layer or cell whose function a keyword chooses."""

    _keyword: ClassVar[str]
    _cells: ClassVar[Mapping[str, OwnCell]]
    _choice: str

    def _choose(self, value: str) -> None:
        if value not in self._cells:
            names = ", ".join(map(repr, self._cells))
            raise ValueError(f"{type(self).__qualname__}: {self._keyword} must be one of {names}, got {value!r}")
        self._choice = value

    @property
    def _own(self) -> OwnCell:
        return self._cells[self._choice]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._keyword}={self._choice!r}"  # type: ignore[misc]


def _ind_rnn(activation: Callable[[Any], Any]) -> OwnCell:
    @cell(gates=1, recurrent="diagonal", name="IndRNN")
    def step(x, r, h):  # type: ignore[no-untyped-def]
        return activation(x[0] + r[0])

    return step._own


class _ChosenIndRNN(_Chosen):
    _keyword = "nonlinearity"
    _cells: ClassVar = {"relu": _ind_rnn(torch.relu), "tanh": _ind_rnn(torch.tanh)}

    @property
    def nonlinearity(self) -> str:
        """As it was given."""
        return self._choice


class IndRNN(_ChosenIndRNN, OwnLayer):  # type: ignore[override]
    r"""Independently recurrent network (S. Li et al., "Independently recurrent neural network (IndRNN)", 2018,
    arXiv:1803.04831).

    .. math:: h_t = \mathrm{relu}(W x_t + b + u \odot h_{t-1})

    or tanh in place of relu, with u the one row of ``weight_hh``.

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`, and:

    Args:
        nonlinearity: ``"relu"`` (default) or ``"tanh"``.

    Attributes:
        weight_ih_l[k]: (H, I) for k = 0, else (H, D*H).
        weight_hh_l[k]: (1, H). With relu the paper keeps it within :math:`\pm\gamma^{1/T}` for T steps,
            with a :math:`\gamma` such as 2.
        bias_ih_l[k]: (H,).
    """

    def __init__(self, *args: Any, nonlinearity: str = "relu", **kwargs: Any) -> None:
        self._choose(nonlinearity)
        super().__init__(*args, **kwargs)

    @classmethod
    def source(cls, nonlinearity: str = "relu") -> str:
        """The C++ header of the cell's kernels."""
        return cls._cells[nonlinearity].source()

    class Cell(_ChosenIndRNN, OwnStep):  # type: ignore[override]
        """One step of :class:`IndRNN`; the other arguments are those of :class:`fastrnn.modules.own.OwnStep`."""

        def __init__(self, *args: Any, nonlinearity: str = "relu", **kwargs: Any) -> None:
            self._choose(nonlinearity)
            super().__init__(*args, **kwargs)


def _slstm(log_forget: Callable[[Any], Any]) -> OwnCell:
    @cell(gates=("i", "f", "z", "o"), states=("h", "c", "n", "m"), name="SLSTM")
    def step(x, r, h, c, n, m):  # type: ignore[no-untyped-def]
        i, f = x.i + r.i, log_forget(x.f + r.f) + m
        # h is the same for any m. From zero states i alone keeps n from underflow, and f - m, then above 0, may not
        # overflow, though it is multiplied by 0.
        m = torch.where(n == 0, i, torch.maximum(f, i))
        i, f = torch.exp(i - m), torch.exp(torch.clamp(f - m, max=80))
        c = f * c + i * torch.tanh(x.z + r.z)
        n = f * n + i
        return torch.sigmoid(x.o + r.o) * (c / n), c, n, m

    return step._own


class _ChosenSLSTM(_Chosen):
    _keyword = "forget_gate"
    _cells: ClassVar = {"sigmoid": _slstm(F.logsigmoid), "exp": _slstm(lambda f: f)}

    @property
    def forget_gate(self) -> str:
        """As it was given."""
        return self._choice


class SLSTM(_ChosenSLSTM, OwnLayer):  # type: ignore[override]
    r"""sLSTM (M. Beck et al., "xLSTM: extended long short-term memory", 2024, arXiv:2405.04517), without the
    convolution, the normalisation and the projections of its block.

    .. math::
        \begin{aligned}
        (\tilde i_t, \tilde f_t, \tilde z_t, \tilde o_t) &= W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh} \\
        m_t &= \max(\log f_t + m_{t-1}, \tilde i_t), \quad f_t = \sigma(\tilde f_t) \text{ or } \exp(\tilde f_t) \\
        i'_t &= \exp(\tilde i_t - m_t), \quad f'_t = \exp(\log f_t + m_{t-1} - m_t) \\
        c_t &= f'_t \odot c_{t-1} + i'_t \odot \tanh(\tilde z_t) \\
        n_t &= f'_t \odot n_{t-1} + i'_t \\
        h_t &= \sigma(\tilde o_t) \odot c_t / n_t
        \end{aligned}

    but :math:`m_t = \tilde i_t` where :math:`n_{t-1} = 0`, as in the authors' code: then n is never below 1. The heads
    are ``num_heads``. hx and hy are (h, c, n, m); zoneout is for h alone, ``zoneout=(p, 0, 0, 0)``, since c and n
    belong to their m.

    Arguments, inputs and outputs are those of :class:`fastrnn.modules.own.OwnLayer`, and:

    Args:
        forget_gate: ``"sigmoid"`` (default) or ``"exp"``.

    Attributes:
        weight_ih_l[k]: (4H, I) for k = 0, else (4H, D*H): i, f, z, o.
        weight_hh_l[k]: (4H, H / num_heads).
        bias_ih_l[k], bias_hh_l[k]: (4H,).
    """

    def __init__(self, *args: Any, forget_gate: str = "sigmoid", **kwargs: Any) -> None:
        self._choose(forget_gate)
        super().__init__(*args, **kwargs)

    @classmethod
    def source(cls, forget_gate: str = "sigmoid") -> str:
        """The C++ header of the cell's kernels."""
        return cls._cells[forget_gate].source()

    class Cell(_ChosenSLSTM, OwnStep):  # type: ignore[override]
        """One step of :class:`SLSTM`; the other arguments are those of :class:`fastrnn.modules.own.OwnStep`."""

        def __init__(self, *args: Any, forget_gate: str = "sigmoid", **kwargs: Any) -> None:
            self._choose(forget_gate)
            super().__init__(*args, **kwargs)


# For help() and editors: the constructors themselves hand on *args.
for _kind, _base in ((IndRNN, OwnLayer), (SLSTM, OwnLayer), (IndRNN.Cell, OwnStep), (SLSTM.Cell, OwnStep)):
    _constructor: Any = _kind.__init__
    _inherited = inspect.signature(_base.__init__, eval_str=True)
    _choice = inspect.signature(_constructor, eval_str=True).parameters[_kind._keyword]
    _constructor.__signature__ = _inherited.replace(parameters=[*_inherited.parameters.values(), _choice])

# Every one of them, for what is to be done with all.
CELLS = (
    *(layer._own for layer in (LiGRU, MinGRU, MinLSTM, SRU)),
    *_ChosenIndRNN._cells.values(),
    *_ChosenSLSTM._cells.values(),
)
