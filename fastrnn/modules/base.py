"""What RNN, LSTM and GRU share, and what their cells share: torch.nn's constructors and parameters, our forward.

The bases are nn.RNNBase and nn.RNNCellBase, not nn.RNN, nn.LSTM or nn.GRU: Dynamo breaks the graph at instances of
those. The price: ``isinstance(layer, nn.LSTM)`` is False.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .._stack import run_cell, run_stack
from ..reference import States


class Refusals:
    """What torch does to its own layers and cannot do to ours: a clear error in place of nonsense."""

    def __prepare_scriptable__(self) -> NoReturn:
        """torch.jit.script calls this hook on every module before it reads any source."""
        name = type(self).__name__
        raise NotImplementedError(
            f"torch.jit.script cannot compile {name}, a fastrnn module. Use torch.compile or torch.export; or load its "
            "state_dict into the torch.nn module of the same kind and script that"
        )

    # torch.ao.quantization assigns ``qconfig`` to every module: a setting where the caller's settings name the module,
    # its type or a parent, None elsewhere. What is there already comes first, so ``layer.qconfig = None`` opts out.

    @property
    def qconfig(self) -> None:
        """None once torch.ao.quantization was told to leave this module alone, else missing."""
        if "qconfig" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} has no qconfig: fastrnn has no quantized modules")

    @qconfig.setter
    def qconfig(self, value: object) -> None:
        name = type(self).__name__
        remedy = "To quantize it, load its state_dict into the torch.nn module of the same kind first"
        if value is not None:
            raise NotImplementedError(
                f"{name}, a fastrnn module, cannot be quantized by torch.ao.quantization. {remedy}; to leave it in "
                "floating point, set its qconfig to None"
            )
        if "qconfig" not in self.__dict__:
            warnings.warn(f"{name}, a fastrnn module, stays in floating point. {remedy}", stacklevel=3)
        self.__dict__["qconfig"] = None

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("qconfig", None)


def current_weights(module: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """The module's weights of those names as they are at this moment."""
    parameters = module._parameters  # a third of getattr's time, and this runs at every call
    try:
        return [parameters[name] for name in names]  # type: ignore[misc]
    except KeyError:  # some are not parameters any more: computed by a parametrization, or plain attributes
        return [getattr(module, name) for name in names]


class Layer(Refusals, nn.RNNBase):
    """Base of RNN, LSTM and GRU. Use those.

    No flat weight buffer: weights are looked up by name at each call, so ``.data`` assignment, weight_norm, pruning,
    parametrizations, ``functional_call``, meta tensors and deepcopy all work and none needs ``flatten_parameters``.
    """

    __jit_unused_properties__: ClassVar = ["all_weights", "_flat_weights", "qconfig"]  # type: ignore[misc]

    _flat_weights_names: list[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(self.bidirectional, bool):  # torch.nn finds out at the first call
            raise TypeError(f"bidirectional should be of type bool, got: {type(self.bidirectional).__name__}")

    @property
    def _flat_weights(self) -> list[Tensor]:  # type: ignore[override]
        """The weights as they are now, in torch's order; never cached, or parametrizations would go stale."""
        return current_weights(self, self._flat_weights_names)

    def _init_flat_weights(self) -> None:
        """Nothing to keep."""

    def _update_flat_weights(self) -> None:
        """Nothing to keep."""

    def flatten_parameters(self) -> None:
        """Does nothing: our kernels take each weight where it lies."""

    # nn.RNNBase overrides these for its list of weights alone.
    __setattr__ = nn.Module.__setattr__  # type: ignore[assignment]
    __setstate__ = nn.Module.__setstate__

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    def _replicate_for_data_parallel(self) -> Layer:
        return nn.Module._replicate_for_data_parallel(self)

    def _run(
        self, input: Tensor | PackedSequence, hx: Tensor | Sequence[Tensor] | None, lengths: Tensor | None
    ) -> tuple[Tensor | PackedSequence, States]:
        # Not through the property: nn.Module would blame a missing weight's AttributeError on the property itself.
        return run_stack(self, input, hx, current_weights(self, self._flat_weights_names), lengths)


def refuse_proj_size(name: str) -> NoReturn:
    """RNN and GRU have no projection; torch.nn overlooks one given by position, and fails at the first call."""
    raise ValueError(f"{name}: proj_size argument is only supported for LSTM, not RNN or GRU. Leave it out")


_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Cell(Refusals, nn.RNNCellBase):
    """Base of RNNCell, LSTMCell and GRUCell. Use those."""

    __jit_unused_properties__: ClassVar = ["qconfig", "_cell"]

    _cell: str  # which recurrence this is, as fastrnn.reference names it

    def _current_weights(self) -> list[Tensor]:
        """The weights as they are now, in the order of a layer's."""
        return current_weights(self, _CELL_WEIGHTS if self.bias else _CELL_WEIGHTS[:2])

    def _run(self, input: Tensor, hx: Tensor | Sequence[Tensor] | None) -> States:
        return run_cell(self._cell, input, hx, self._current_weights())
