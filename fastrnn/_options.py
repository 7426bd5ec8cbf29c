"""What a layer's constructor takes beyond torch.nn's: checked here, run by `fastrnn/_extended.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

Probabilities = float | tuple[float, float]


@dataclass(frozen=True)
class Options:
    """How a layer differs from torch.nn's; the defaults differ in nothing.

    Raises ValueError for a value without a meaning, TypeError for one of the wrong type.
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
        return None if options == cls() else options

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
