"""A call as the derivatives see it, and as the ops take it: here alone the order of the ops' arguments is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..reference import ACTIVATIONS, Extras
from . import flat, schema
from .cells import CELLS, facts_of
from .schema import Request

MaybeTensors = Sequence[Tensor | None]

_ACTIVATIONS = tuple(ACTIVATIONS)


@dataclass(eq=False)
class Call:
    """What of a call of one layer or several is not differentiated. Not a pytree, so that torch.func leaves it whole.

    What is differentiated are the primals, in one row: input, states, with `resets` the reset states, weights. Nobody
    changes a Call; it is not frozen, since that takes 0.8 us of every call.
    """

    cell: str
    bidirectional: bool
    batch_sizes: Tensor | None
    allow_tf32: bool  # backward computes as forward did, whatever torch's switch says by then
    extras: Extras | None = None
    resets: bool = False
    recompute: bool = False  # keep nothing for backward but the primals, and run forward again then

    @property
    def states(self) -> int:
        return CELLS[self.cell].states

    @property
    def data(self) -> int:
        """How many of the primals have a batch; the weights are behind them."""
        return 1 + self.states * (2 if self.resets else 1)

    @property
    def outputs(self) -> int:
        """How many tensors come out: output, final states, perhaps every step's cell states."""
        return 1 + self.states + (1 if self.returns_cells else 0)

    @property
    def returns_cells(self) -> bool:
        return self.extras is not None and self.extras.return_cells

    def split(self, primals: Sequence[Any]) -> tuple[Any, list[Any], list[Any], list[Any]]:
        """Input, states, reset states, weights."""
        behind_states, data = 1 + self.states, self.data
        return primals[0], [*primals[1:behind_states]], [*primals[behind_states:data]], [*primals[data:]]

    # The ops.

    def infer(self, primals: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs, with nothing kept for backward."""
        if self.extras is None:
            return schema.plain_infer(self.cell, primals, *self._settings(), None)
        return self._outputs(*schema.infer(*self._arguments(primals)))

    def forward(self, primals: Sequence[Tensor], raw: bool) -> Sequence[Tensor]:
        """The outputs and behind them the reserve for backward; by the bare op or the public one."""
        if raw and self.extras is None:
            return schema.plain_forward(self.cell, primals, self.batch_sizes, self.bidirectional, self.allow_tf32)
        op = schema.raw_forward if raw else flat.forward if flat.is_wanted() else schema.forward
        *results, reserve = op(*self._arguments(primals))
        return *self._outputs(*results), reserve

    def backward(
        self,
        request: Request,
        grads: MaybeTensors,
        primals: Sequence[Tensor],
        output: Tensor,
        reserve: Tensor,
        raw: bool,
    ) -> Sequence[Tensor]:
        """The requested gradients of the primals, given those of the outputs; by the bare op or the public one."""
        if raw and self.extras is None:
            settings = self._settings()
            results = schema.plain_backward(self.cell, primals, *settings, grads, output, reserve, *request)
        else:
            op = schema.raw_backward if raw else flat.backward if flat.is_wanted() else schema.backward
            cell, *arguments = self._arguments(primals)
            of_input, of_states, of_weights = op(
                cell, *self.split_outputs(grads), output, reserve, *request, *arguments
            )
            results = [of_input, *of_states, *of_weights]
        return results if request.input else results[1:]

    def _settings(self) -> tuple[Any, ...]:
        return self.batch_sizes, self.bidirectional, self.allow_tf32

    def _arguments(self, primals: Sequence[Tensor]) -> tuple[Any, ...]:
        """The arguments of a forward op that is not plain."""
        input, states, resets, weights = self.split(primals)
        return self.cell, input, [*states, *resets], weights, *self._settings(), *self._extra_arguments()

    def _extra_arguments(self) -> tuple[Any, ...]:
        """What the ops take behind the settings; no list is empty."""
        e = self.extras
        if e is None:
            return None, None, None, None, None, False, None
        activations = [_ACTIVATIONS.index(name) for name in e.activations] or None
        kept = [mask for mask in e.kept if mask is not None]
        if len(kept) < len(e.kept):  # torch.jit.trace knows no list of optional tensors: (0,) stands for None
            kept = [kept[0].new_empty(0) if mask is None else mask for mask in e.kept] if kept else []
        return e.cuts, e.h_mask, kept or None, list(e.shares) or None, e.state_grad_clip, e.return_cells, activations

    def _outputs(self, output: Tensor, finals: Sequence[Tensor], cells: Tensor) -> tuple[Tensor, ...]:
        return (output, *finals, cells) if self.returns_cells else (output, *finals)

    def split_outputs(self, outputs: Sequence[Any]) -> tuple[Any, list[Any], Any]:
        """Of the outputs, or their gradients: output, final states, every step's cell states or None."""
        of_cells = outputs[-1] if self.returns_cells else None
        return outputs[0], list(outputs[1 : 1 + self.states]), of_cells

    # The public ops' arguments, as torch hands them to what differentiates these.

    @classmethod
    def of_forward(cls, arguments: Sequence[Any]) -> tuple[Call, list[Tensor]]:
        """The call and its primals from the arguments of the public forward op."""
        cell, input, states, weights, batch_sizes, bidirectional, allow_tf32, *others = arguments
        cuts, h_mask, kept, shares, clip, return_cells, activations = others
        facts = facts_of(cell)
        resets = len(states) > facts.states
        extras = None
        if resets or return_cells or not facts.plain or any(o is not None for o in (cuts, h_mask, kept, shares, clip)):
            names = tuple(_ACTIVATIONS[activation] for activation in activations or ())
            masks = tuple(None if mask.dim() == 1 else mask for mask in kept or ())
            extras = Extras(cuts, h_mask, masks, tuple(shares or ()), clip, return_cells, names)
        call = cls(cell, bidirectional, batch_sizes, allow_tf32, extras, resets)
        return call, [input, *states, *weights]

    @classmethod
    def of_backward(cls, arguments: Sequence[Any]) -> tuple[Call, Request, MaybeTensors, list[Tensor]]:
        """The same of the public backward op: call, request, gradients of the outputs, primals."""
        cell, of_output, of_finals, of_cells, _output, _reserve, *others = arguments
        request, others = Request(*others[: len(Request._fields)]), others[len(Request._fields) :]
        call, primals = cls.of_forward((cell, *others))
        return call, request, call._outputs(of_output, of_finals, of_cells), primals

    def as_forward_arguments(self, of_primals: Sequence[Tensor | None]) -> tuple[Any, ...]:
        """Gradients of the primals where the public forward op has these; its other arguments have none."""
        input, states, resets, weights = self.split(of_primals)
        nothing = (None,) * len(self._settings())
        return None, input, [*states, *resets], weights, *nothing, *map(_nothing_for, self._extra_arguments())

    def as_backward_arguments(
        self, of_grads: Sequence[Tensor | None], of_primals: Sequence[Tensor | None]
    ) -> tuple[Any, ...]:
        """The same for the public backward op, which has the outputs' gradients, too."""
        cell, *others = self.as_forward_arguments(of_primals)
        of_output, of_finals, of_cells = self.split_outputs(of_grads)
        # Of a list that holds no tensor torch wants no list.
        finals = of_finals if any(grad is not None for grad in of_finals) else None
        return cell, of_output, finals, of_cells, None, None, *(None,) * len(Request._fields), *others

    # The tensors that are not differentiated.

    def masks(self) -> tuple[Tensor | None, ...]:
        e = self.extras
        return () if e is None else (e.cuts, e.h_mask, *e.kept)

    def without_masks(self) -> Call:
        masks = self.masks()
        return self if _no_tensor(masks) else self._with((None,) * len(masks))

    def with_masks(self, masks: MaybeTensors) -> Call:
        return self if _no_tensor(masks) else self._with(masks)

    def _with(self, masks: MaybeTensors) -> Call:
        cuts, h_mask, *kept = masks
        return _replaced(self, extras=_replaced(self.extras, cuts=cuts, h_mask=h_mask, kept=tuple(kept)))

    def unwrapped(self) -> Call:
        """The same call, its tensors without what torch.func wraps around all that is computed in a transform."""
        return self._changed(lambda tensor: tensor, lambda tensor: tensor)

    def grouped(self, groups: int) -> Call:
        """The same call for `groups` times the batch."""
        return self._changed(lambda sizes: sizes * groups, lambda mask: mask.repeat_interleave(groups, 1))

    def ungrouped(self, groups: int) -> Call:
        """The same call for one of `groups` equal parts of a batch made by :meth:`grouped`."""
        return self._changed(lambda sizes: sizes // groups, lambda mask: mask.unflatten(1, (-1, groups)).select(2, 0))

    def _changed(self, sizes: Callable[[Tensor], Tensor], mask: Callable[[Tensor], Tensor]) -> Call:
        call = self.with_masks([None if m is None else unwrapped(mask(m)) for m in self.masks()])
        if self.batch_sizes is None:
            return call
        return replace(call, batch_sizes=unwrapped(sizes(self.batch_sizes)))


def _nothing_for(argument: Any) -> Any:
    """No gradient, as torch wants it: a list for a list of tensors."""
    return [None] * len(argument) if isinstance(argument, list) and isinstance(argument[0], Tensor) else None


def _no_tensor(masks: MaybeTensors) -> bool:
    return all(mask is None for mask in masks)


def _replaced(whole: Any, **fields: Any) -> Any:
    """As dataclasses.replace, which takes 10 us to check what is known here, at every step of a training."""
    copy = object.__new__(type(whole))
    copy.__dict__.update(whole.__dict__, **fields)
    return copy


def unwrapped(tensor: Tensor) -> Tensor:
    """The tensor itself, without what torch.func wraps around all that is computed inside a transform.

    A Call outlives the transform it was made in, and its wrappers are of no use then, or worse.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            raise NotImplementedError(
                "vmap over lengths, batch sizes, resets or dropout masks: call once for each, or share them"
            )
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor
