"""What a layer's constructor takes beyond torch.nn's: told and checked here, run by `fastrnn/_extended.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

Probabilities = float | tuple[float, float]


@dataclass(frozen=True)
class Options:
    r"""How a layer differs from torch.nn's: keywords of RNN, LSTM and GRU. The defaults differ in nothing.

    A layer holds those it was made with in ``layer.options``, None if none is set; to change them, assign
    ``dataclasses.replace(layer.options, ...)``. States are h and, in the LSTM, c; masks follow ``torch.manual_seed``.

    Args:
        tbptt_steps: k for truncated backpropagation through time in one call (R. J. Williams and J. Peng, "An efficient
            gradient-based algorithm for on-line training of recurrent network trajectories", 1990): no gradient flows
            through the state into steps k, 2k, ..., counted from each direction's own first step. hx keeps its
            gradient, and so does a reset state that takes the state's place there.
        state_grad_clip: v; the gradient that arrives at :math:`h_{t-1}` and :math:`c_{t-1}` from step t is clipped to
            [-v, v], element by element, before that of step t-1's own output is added (after A. Graves,
            arXiv:1308.0850, who clips that of the gates' inputs).
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
    zoneout: Probabilities = 0.0
    weight_dropout: float = 0.0
    variational_dropout: float = 0.0
    num_heads: int = 1
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.tbptt_steps is not None:
            _check_count("tbptt_steps", self.tbptt_steps)
        _check_count("num_heads", self.num_heads)
        if not isinstance(self.recompute, bool):
            raise TypeError(f"recompute must be a bool, got {type(self.recompute).__name__}")
        clip = self.state_grad_clip
        if clip is not None and not (_is_number(clip) and 0 < clip < math.inf):
            raise ValueError(f"state_grad_clip must be a number above 0, got {clip!r}. Leave it out to clip nothing")
        if isinstance(self.zoneout, tuple) and len(self.zoneout) != 2:
            raise ValueError(f"zoneout must be a probability or a pair (p_h, p_c), got {self.zoneout!r}")
        for name, value in (
            *(("zoneout", p) for p in self.zoneouts),
            ("weight_dropout", self.weight_dropout),
            ("variational_dropout", self.variational_dropout),
        ):
            if not _is_number(value) or not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability within [0, 1], got {value!r}")

    @classmethod
    def take(cls, layer: str, kwargs: dict[str, Any]) -> Options | None:
        """The options among a layer's keyword arguments, taken out of them; None if nothing differs."""
        options = cls(**{name: kwargs.pop(name) for name in NAMES if name in kwargs})
        if isinstance(options.zoneout, tuple) and layer != "LSTM":
            raise ValueError(f"{layer}: zoneout must be one probability: only the LSTM has a c beside h")
        if options.recompute and layer == "RNN":
            raise ValueError("RNN: recompute saves the gates' memory, and an RNN keeps none. Leave it out")
        return None if options == DEFAULTS else options

    @property
    def zoneouts(self) -> tuple[float, float]:
        """The probabilities with which h and c keep their old value."""
        return self.zoneout if isinstance(self.zoneout, tuple) else (self.zoneout, self.zoneout)

    def check_sizes(self, layer: str, hidden_size: int, proj_size: int) -> None:
        """Raise ValueError if the options don't fit a layer of these sizes."""
        if self.num_heads == 1:
            return
        if proj_size:
            raise ValueError(
                f"{layer}: num_heads divides h as w_hh reads it, which a proj_size changes. Use one of both"
            )
        if hidden_size % self.num_heads:
            raise ValueError(f"{layer}: hidden_size {hidden_size} is not a multiple of num_heads {self.num_heads}")

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
