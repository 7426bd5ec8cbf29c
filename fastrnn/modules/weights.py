"""A module's weights: as they are at this moment, and packed ahead of the calls."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._call.frozen import Frozen, why_not_frozen
from .._call.narrow import check_int8, check_narrow_dtype
from .._cell.refuse import warn_caller

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
    _warned_of_parameters = False  # which take the place of rounded weights in a call

    def _stacked(self) -> tuple[str, Sequence[str], int, bool]:
        """The cell, the weights' names, and how many layers in how many directions they make."""
        raise NotImplementedError

    def pack_weights(self, dtype: torch.dtype | None = None) -> Self:
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

        With a `dtype` the packed copies are rounded, w_ih and the projection among them, and so read less memory at
        every step: ``torch.bfloat16`` takes half the memory of float32, ``torch.int8`` a quarter, beside the
        parameters, which stay. Biases, states, sums and activations stay in float32, and a sequence gives the same
        numbers alone and in a batch. bfloat16 rounds to nearest, by at most 1/256 of each weight's magnitude (and to
        infinity beyond 3.39e38). int8 has a scale for each row of a matrix, the row's largest magnitude over 127, and
        rounds each weight of the row by at most half of that: one huge weight costs all others of its row their
        precision, to 1/254 of that weight. What int8 weights are multiplied by, a sequence's input and state at a step,
        is rounded to 16 bits, by at most 1/65,534 of its largest magnitude, and products are summed exactly, in parts
        of 512; where it is not finite, that sequence is NaN from there on.

        Calls that record gradients, are transformed or run under autocast, with resets or ``return_states``, compute
        with the parameters; of the last three the first one warns. torch.export raises, and so does torch.compile with
        ``fullgraph``; without, the call stays outside the graph.

        ``freeze_weights`` and ``unfreeze_weights`` are the older names.

        Args:
            dtype: None (default) for the weights as they are, ``torch.bfloat16`` or ``torch.int8``.

        Returns:
            The module itself.

        Raises:
            ValueError: for another dtype, or if a dtype was given and nothing can be packed, or weights for int8 hold
                NaN or infinity.
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
        check_narrow_dtype("pack_weights", dtype)
        obstacle, kind = self._why_not_packed(dtype), type(self).__name__
        if obstacle and dtype is not None:
            raise ValueError(f"{kind}: pack_weights({dtype}) cannot serve it: {obstacle}")
        weights = current_weights(self, names)
        if dtype == torch.int8:
            for name, weight in zip(names, weights, strict=True):
                if weight.dim() > 1:
                    check_int8(name, weight)
        self._warned_of_parameters = False
        self._frozen = None if obstacle else Frozen(cell, weights, num_layers, bidirectional, dtype)
        if obstacle:
            warnings.warn(
                f"{kind}: pack_weights() has no effect: {obstacle}. Leave the call out, or change that first",
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

    def _why_not_packed(self, dtype: torch.dtype | None = None) -> str:
        """What keeps pack_weights(dtype) from serving this module, "" if nothing does."""
        cell, names, _, _ = self._stacked()
        for name in names:
            if name not in self._parameters:
                return f"{name} is not a parameter"
        options = getattr(self, "options", None)
        if options is not None:
            return f"the layer has {options}"
        return why_not_frozen(cell, current_weights(self, names[:1])[0], dtype)

    def _frozen_weights(self, weights: Sequence[Tensor], plain: bool = True) -> Frozen | None:
        """What pack_weights() packed of these weights, or None. What does not hold any more is dropped here.

        `plain`: whether the call has neither resets nor other things that kernels for packed weights do not know.
        """
        frozen = self._frozen
        if frozen is None:
            return None
        if frozen.dtype is not None:
            self._refuse_tracing(frozen.dtype)
            if not plain or torch.is_autocast_enabled("cpu"):
                self._warn_of_parameters("calls with resets, return_states or autocast do not read them")
        if not plain or torch.compiler.is_compiling():
            return None
        if not frozen.are_of(weights):  # functional_call brings its own, and the module's come back after it
            if frozen.dtype is not None:
                self._warn_of_parameters("these are others than those that were packed")
            return None
        if not frozen.are_current():
            if frozen.dtype is not None:
                self._warn_of_parameters("the parameters have changed since. Call pack_weights(dtype) again")
            self.unpack_weights()
            return None
        return frozen

    def _refuse_tracing(self, dtype: torch.dtype) -> None:
        """A graph would hold the parameters, and compute what the packed layer does not."""
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            kind = type(self).__name__
            raise RuntimeError(
                f"{kind}: its weights are packed in {dtype}, which no graph can hold. Before torch.export, or "
                "torch.compile with fullgraph, call fastrnn.unpack(model)"
            )

    def _warn_of_parameters(self, reason: str) -> None:
        if not self._warned_of_parameters:
            self._warned_of_parameters = True
            kind = type(self).__name__
            warn_caller(
                f"{kind}: computes with its parameters, not with the rounded weights that were packed: {reason}",
                UserWarning,
            )

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
        state.pop("_warned_of_parameters", None)
        return state
