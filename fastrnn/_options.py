"""What a layer's constructor takes beyond torch.nn's: told and checked here, run by `fastrnn/_call/modifiers.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

Probabilities = float | tuple[float, ...]


@dataclass(frozen=True)
class Options:
    r"""How a layer differs from torch.nn's: keywords of RNN, LSTM and GRU. The defaults differ in nothing.

    A layer holds those it was made with in ``layer.options``, None if none is set; to change them, assign
    ``dataclasses.replace(layer.options, ...)``, but for those that decide which weights there are. States are h and,
    in the LSTM, c; masks follow ``torch.manual_seed``.

    Args:
        tbptt_steps: k for truncated backpropagation through time in one call (R. J. Williams and J. Peng, "An efficient
            gradient-based algorithm for on-line training of recurrent network trajectories", 1990): no gradient flows
            through the state into steps k, 2k, ..., counted from each direction's own first step. hx keeps its
            gradient, and so does a reset state that takes the state's place there.
        state_grad_clip: v; the gradient that arrives at :math:`h_{t-1}` and :math:`c_{t-1}` from step t is clipped to
            [-v, v], element by element, before that of step t-1's own output is added (after A. Graves,
            arXiv:1308.0850, who clips that of the gates' inputs).
        layer_norm: each of W_ih x and W_hh h is normalised over all gates jointly, with a gain, and in the LSTM c
            before its tanh, with a gain and a bias (J. Ba et al., "Layer normalization", arXiv:1607.06450); there

            .. math:: (i, f, g, o) = LN(W_{ih} x_t; \alpha_1) + b_{ih} + LN(W_{hh} h_{t-1}; \alpha_2) + b_{hh}, \
                h_t = o_t \odot \tanh(LN(c_t; \alpha_3, \beta_3))

            with the nonlinearities of the gates left out, eps = 1e-5, and the means over a row's G*H or H values. The
            gains are ``ln_ih_l[k]`` and ``ln_hh_l[k]``, (G*H,), ``ln_c_l[k]_weight`` and ``ln_c_l[k]_bias`` (H,). Not
            with ``reset_after=False``, whose products do not come at one time.
        zoneout: p, or in the LSTM (p_h, p_c): in training each unit keeps its old value with probability p (D. Krueger
            et al., "Zoneout", arXiv:1606.01305), in eval mode it takes the mean of the two,

            .. math:: s_t = m_t \odot s_{t-1} + (1 - m_t) \odot \tilde s_t, \quad m_t \sim B(p)
                \text{ in training}, \ m_t = p \text{ in eval mode}

            for s = h and c, where the tilde marks what the plain recurrence computes; that of h uses that of c.
        weight_dropout: p; DropConnect on w_hh, one mask for each forward: every weight is dropped with probability p,
            the others scaled by 1 / (1 - p) (S. Merity et al., arXiv:1708.02182). In training.
        variational_dropout: p; masks drawn once for each sequence drop features of each layer's input, and units of
            :math:`h_{t-1}` where w_hh multiplies it, and scale the others by 1 / (1 - p) (Y. Gal and Z. Ghahramani,
            arXiv:1512.05287). In training. GRU's :math:`z \odot h_{t-1}` takes the whole :math:`h_{t-1}`.
        peephole: of the LSTM: the gates also see c, unit by unit (F. Gers and J. Schmidhuber, "Recurrent nets that time
            and count", 2000),

            .. math:: i_t = \sigma(\dots + w_{ci} \odot c_{t-1}), \
                f_t = \sigma(\dots + w_{cf} \odot c_{t-1}), \ o_t = \sigma(\dots + w_{co} \odot c_t)

            ``weight_c_l[k]`` is (3, H), in the order i, f, o.
        coupled: of the LSTM: :math:`f_t = 1 - i_t` (K. Greff et al., arXiv:1503.04069). The gates are i, g, o, so that
            weights and biases have 3*H rows; ``weight_c_l[k]`` of peepholes is (2, H), in the order i, o.
        reset_after: of the GRU: False for the reset gate applied before the product, as in the paper (K. Cho et al.,
            arXiv:1406.1078): :math:`n_t = \tanh(W_{in} x_t + b_{in} + W_{hn} (r_t \odot h_{t-1}) + b_{hn})`.
        num_heads: n; w_hh is block-diagonal: head k reads its own H / n units of h. ``weight_hh_l[k]`` is (G*H, H / n).
            Not with ``proj_size``.
        recompute: keep nothing for backward but the layer's arguments, and run forward again then, with the same masks
            (T. Chen et al., arXiv:1604.06174). LSTM and GRU.

    Raises:
        ValueError: for a value or a combination without a meaning.
        TypeError: for a value of the wrong type.
    """

    tbptt_steps: int | None = None
    state_grad_clip: float | None = None
    layer_norm: bool = False
    zoneout: Probabilities = 0.0
    weight_dropout: float = 0.0
    variational_dropout: float = 0.0
    peephole: bool = False
    coupled: bool = False
    reset_after: bool = True
    num_heads: int = 1
    recompute: bool = False

    def __post_init__(self) -> None:
        zoneout: object = self.zoneout
        if isinstance(zoneout, list):  # as a file of settings gives it
            object.__setattr__(self, "zoneout", tuple(zoneout))
        if self.tbptt_steps is not None:
            _check_count("tbptt_steps", self.tbptt_steps)
        _check_count("num_heads", self.num_heads)
        for name in ("layer_norm", "peephole", "coupled", "reset_after", "recompute"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, got {type(getattr(self, name)).__name__}")
        clip = self.state_grad_clip
        if clip is not None and not (_is_number(clip) and 0 < clip < math.inf):
            raise ValueError(f"state_grad_clip must be a number above 0, got {clip!r}. Leave it out to clip nothing")
        if isinstance(self.zoneout, tuple) and len(self.zoneout) < 2:
            raise ValueError(f"zoneout must be a probability or a pair (p_h, p_c), got {self.zoneout!r}")
        for name, value in (
            *(("zoneout", p) for p in self.zoneouts(2)),
            ("weight_dropout", self.weight_dropout),
            ("variational_dropout", self.variational_dropout),
        ):
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability within [0, 1], got {value!r}")

    @classmethod
    def take(cls, layer: str, kwargs: dict[str, Any], others: Iterable[str]) -> Options | None:
        """The options among a layer's keyword arguments, taken out of them; None if nothing differs.

        TypeError for a keyword that is neither an option nor one of the ``others``.
        """
        options = cls(**{name: kwargs.pop(name) for name in NAMES if name in kwargs})
        known = (*NAMES, *others)
        for name in kwargs:
            if name not in known:
                close = get_close_matches(name, known, 1)
                hint = f"Did you mean {close[0]!r}?" if close else "fastrnn.Options has those beyond torch.nn's"
                raise TypeError(f"{layer} got an unexpected keyword argument {name!r}. {hint}")
        return None if options == DEFAULTS else options

    def zoneouts(self, states: int) -> tuple[float, ...]:
        """The probabilities with which each of so many states keeps its old value: h, c."""
        return self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout,) * states

    def check_layer(self, layer: str, hidden_size: int, proj_size: int) -> None:
        """Raise ValueError if the options don't fit a layer of this class and these sizes."""
        if isinstance(self.zoneout, tuple) and len(self.zoneout) != 2:
            raise ValueError(f"zoneout must be a probability or a pair (p_h, p_c), got {self.zoneout!r}")
        if layer != "LSTM":
            if isinstance(self.zoneout, tuple):
                raise ValueError(f"{layer}: zoneout must be one probability: only the LSTM has a c beside h")
            if self.peephole or self.coupled:
                name = "peephole" if self.peephole else "coupled"
                raise ValueError(f"{layer}: {name} changes the gates of an LSTM. Leave it out")
        if layer != "GRU" and not self.reset_after:
            raise ValueError(f"{layer}: reset_after is about the reset gate, which only the GRU has. Leave it out")
        if self.layer_norm and not self.reset_after:
            raise ValueError(
                f"{layer}: layer_norm normalises the recurrent product over all gates, and with reset_after=False that "
                "of n waits for r. Use one of both"
            )
        if self.recompute and layer == "RNN":
            raise ValueError("RNN: recompute saves the gates' memory, and an RNN keeps none. Leave it out")
        if self.num_heads > 1 and proj_size:
            raise ValueError(
                f"{layer}: num_heads divides h as w_hh reads it, which a proj_size changes. Use one of both"
            )
        self._check_heads(layer, hidden_size)

    def check_own_layer(self, layer: str, states: int, recurrent: str, hidden_size: int) -> None:
        """The same for a layer of :func:`fastrnn.cell` with so many states."""
        for name in ("layer_norm", "peephole", "coupled"):
            if getattr(self, name):
                raise ValueError(f"{layer}: {name} is not for cells of one's own: write it into the function")
        if not self.reset_after:
            raise ValueError(f"{layer}: reset_after is about the reset gate of the GRU. Leave it out")
        if isinstance(self.zoneout, tuple) and len(self.zoneout) != states:
            raise ValueError(f"{layer}: zoneout must be a probability, or one for each of {states} states")
        if recurrent != "dense":
            for name in ("variational_dropout", "num_heads"):
                if getattr(self, name) != getattr(DEFAULTS, name):
                    raise ValueError(
                        f"{layer}: {name} is about w_hh, and recurrent={recurrent!r} has none. Leave it out"
                    )
        if recurrent == "none" and self.weight_dropout > 0:
            raise ValueError(f"{layer}: weight_dropout is about w_hh, which recurrent='none' lacks. Leave it out")
        self._check_heads(layer, hidden_size)

    def _check_heads(self, layer: str, hidden_size: int) -> None:
        if hidden_size % self.num_heads:
            raise ValueError(f"{layer}: hidden_size {hidden_size} is not a multiple of num_heads {self.num_heads}")

    def check_change(self, other: Options) -> None:
        """Raise ValueError if a layer made with the options cannot be changed to the others: its weights don't fit."""
        for name in ("layer_norm", "peephole", "coupled", "reset_after", "num_heads"):
            old, new = getattr(self, name), getattr(other, name)
            if old != new:
                raise ValueError(f"a layer made with {name}={old} cannot change to {new}: make a new one")

    def cell(self, mode: str) -> str:
        """Which recurrence of :mod:`fastrnn.reference` a layer of torch's mode ("LSTM") runs."""
        cell = mode.lower()
        if not self.reset_after:
            return f"{cell}_reset_before"
        return cell + "_coupled" * self.coupled + "_peephole" * self.peephole + "_norm" * self.layer_norm

    def __str__(self) -> str:
        """Those that differ from the defaults, as a repr shows them."""
        return ", ".join(f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name)) != f.default)


NAMES = tuple(field.name for field in fields(Options))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


DEFAULTS = Options()


def random_options(layer: Any) -> list[str]:
    """What draws random numbers at a layer's calls in training mode, by name."""
    options = layer.options or DEFAULTS
    random = {
        "dropout": layer.dropout > 0 and layer.num_layers > 1,
        "zoneout": any(options.zoneouts(1)),
        "weight_dropout": options.weight_dropout > 0,
        "variational_dropout": options.variational_dropout > 0,
    }
    return [name for name, is_set in random.items() if is_set]
