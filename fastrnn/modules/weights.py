"""A module's weights: as they are at this moment, and packed ahead of the calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._call.frozen import Frozen, why_not_frozen

if TYPE_CHECKING:
    from typing_extensions import Self

# How a module looks attributes up whose class says nothing of it.
_GETATTR, _GETATTRIBUTE = nn.Module.__getattr__, nn.Module.__getattribute__


def current_weights(module: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """The module's weights of those names as they are at this moment."""
    kind = type(module)
    # Subclasses may compute weights where attributes are looked up, as Pyro's do: then they are asked for there.
    if kind.__getattr__ is _GETATTR and kind.__getattribute__ is _GETATTRIBUTE:
        parameters = module._parameters  # a third of getattr's time, and this runs at every call
        try:
            return [parameters[name] for name in names]  # type: ignore[misc]
        except KeyError:  # some are not parameters any more: computed by a parametrization, or plain attributes
            pass
    return [getattr(module, name) for name in names]


class Packing(nn.Module):
    """pack_weights() and unpack_weights(), for layers and cells alike."""

    _frozen: Frozen | None = None

    def _stacked(self) -> tuple[str, Sequence[str], int, bool]:
        """The cell, the weights' names, and how many layers in how many directions they make."""
        raise NotImplementedError

    def pack_weights(self) -> Self:
        """Pack the recurrent weights now, so that inference need not do it at every call: for short sequences.

        Calls that record no gradient read the packed copies from then on, which take twice the memory of the recurrent
        weights. The parameters stay as they are, for all other calls and for the state_dict, and may be trained.

        Whatever changes the values of a packed parameter p ends the use of the copies, and :func:`fastrnn.explain`
        says so ("packed ahead" in its column of weights): writing to p, replacing it, assigning ``p.data``, an
        optimizer's step, fused or not, load_state_dict(), ``torch.utils.swap_tensors``, to(). Call this again then.
        After an optimizer's step, whatever it trains, the next call compares the values, and so it does after a write.

        What neither torch's counts of versions nor addresses tell goes unnoticed, so call this again after it too:
        ``p.data.add_()``, a write through a NumPy view or by another process, ``p.data = p.data.t()``, a write to what
        was made in inference mode. Copies and pickles of the module are not packed, nor are calls under torch.compile.

        Packing serves plain calls on the CPU, in float32, float64 and bfloat16. Elsewhere, for fake tensors, and in a
        layer with :class:`fastrnn.Options`, this changes nothing and warns; calls with resets or ``return_states`` pack
        anew.

        ``freeze_weights`` and ``unfreeze_weights`` are the older names.

        Returns:
            The module itself.

        Raises:
            RuntimeError: if weights are not parameters but plain tensors, or computed at every call, as
                parametrizations do.
        """
        cell, names, num_layers, bidirectional = self._stacked()
        others = [name for name in names if name not in self._parameters]
        if others:
            raise RuntimeError(
                f"pack_weights: {others[0]} is not a parameter. If it is computed at every call, remove what computes "
                "it first, for instance with torch.nn.utils.parametrize.remove_parametrizations; if it is a plain "
                "tensor, make it a torch.nn.Parameter"
            )
        obstacle = self._why_not_packed()
        self._frozen = None if obstacle else Frozen(cell, current_weights(self, names), num_layers, bidirectional)
        if obstacle:
            warnings.warn(
                f"{type(self).__name__}: pack_weights() has no effect: {obstacle}. Leave the call out, or change that "
                "first",
                stacklevel=2,
            )
        return self

    def unpack_weights(self) -> Self:
        """Drop what :meth:`pack_weights` packed. Returns the module itself."""
        self._frozen = None
        return self

    # The older names, which sound like requires_grad_(False).
    freeze_weights = pack_weights
    unfreeze_weights = unpack_weights

    def _why_not_packed(self) -> str:
        """What keeps pack_weights() from serving this module, "" if nothing does."""
        _, names, _, _ = self._stacked()
        for name in names:
            if name not in self._parameters:
                return f"{name} is not a parameter"
        options = getattr(self, "options", None)
        if options is not None:
            return f"the layer has {options}"
        return why_not_frozen(current_weights(self, names[:1])[0])

    def _frozen_weights(self, weights: Sequence[Tensor]) -> Frozen | None:
        """What pack_weights() packed of these weights, or None. What does not hold any more is dropped here."""
        frozen = self._frozen
        if frozen is None or torch.compiler.is_compiling():
            return None
        if not frozen.are_of(weights):  # functional_call brings its own, and the module's come back after it
            return None
        if not frozen.are_current():
            self.unpack_weights()
            return None
        return frozen

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        """What to(), half() and the like come to: weights change in ways that torch need not count as writing."""
        self.unpack_weights()
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self._without_packed(super().__getstate__())

    @staticmethod
    def _without_packed(state: dict[str, Any]) -> dict[str, Any]:
        """How weights are packed depends on the processor, so they stay out of pickles, and thereby out of copies."""
        state.pop("_frozen", None)
        return state
