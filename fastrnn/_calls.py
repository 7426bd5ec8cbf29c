"""A call as the derivatives see it, and as the ops take it: here alone the order of their arguments is known.

Every pair of ops `<cell>_forward`, `<cell>_backward` (see :mod:`fastrnn.ops`) has a twin `<cell>_extended_forward`,
`<cell>_extended_backward` that takes :class:`fastrnn.reference.Extras` too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .ops import Cell, Request
from .reference import ACTIVATIONS, Extras

MaybeTensors = Sequence[Tensor | None]

# The tensors among the extras, which are not differentiated. In all of them rows are the second dimension.
_ACTIVATIONS = tuple(ACTIVATIONS)
_MASKS = ("cuts", "h_mask", "kept_h", "kept_c")


@dataclass(frozen=True, eq=False)
class Call:
    """What of a call of one layer or several is not differentiated. Not a pytree, so that torch.func leaves it whole.

    What is differentiated are the primals, in one row: input, states, with `resets` the reset states, weights.
    """

    cell: Cell
    bidirectional: bool
    batch_sizes: Tensor | None
    allow_tf32: bool  # backward computes as forward did, whatever torch's switch says by then
    extras: Extras | None = None
    resets: bool = False
    recompute: bool = False  # keep nothing for backward but the primals, and run forward again then

    @property
    def data(self) -> int:
        """How many of the primals have a batch; the weights are behind them."""
        return 1 + self.cell.states * (2 if self.resets else 1)

    @property
    def outputs(self) -> int:
        """How many tensors come out: output, final states, perhaps every step's c."""
        return 1 + self.cell.states + (1 if self.returns_cells else 0)

    @property
    def returns_cells(self) -> bool:
        return self.extras is not None and self.extras.return_cells

    def split(self, primals: Sequence[Any]) -> tuple[Any, Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Input, states, reset states, weights."""
        behind_states = 1 + self.cell.states
        return primals[0], primals[1:behind_states], primals[behind_states : self.data], primals[self.data :]

    # The ops.

    def infer(self, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs, with nothing kept for backward."""
        if self.extras is None:
            return self.cell.infer(*self._arguments(primals))
        return tuple(self.flat_outputs(self.cell.extended_infer(*self._arguments(primals))))

    def forward(self, primals: Sequence[Tensor], raw: bool) -> tuple[Tensor, ...]:
        """The outputs and behind them the reserve for backward; by the bare op or the public one."""
        cell = self.cell
        if self.extras is None:
            return (cell.raw_forward if raw else cell.forward)(*self._arguments(primals))
        *results, reserve = (cell.raw_extended_forward if raw else cell.extended_forward)(*self._arguments(primals))
        return *self.flat_outputs(results), reserve

    def backward(
        self,
        request: Request,
        grads: MaybeTensors,
        primals: Sequence[Tensor],
        output: Tensor,
        reserve: Tensor,
        raw: bool,
    ) -> tuple[Tensor, ...]:
        """The requested gradients of the primals, given those of the outputs; by the bare op or the public one."""
        cell = self.cell
        arguments, settings = self.primal_arguments(primals), self.settings()
        if self.extras is None:
            op = cell.raw_backward if raw else cell.backward
        else:
            op = cell.raw_extended_backward if raw else cell.extended_backward
        results = op(*self.grad_arguments(grads), *arguments, output, reserve, *settings, *request)
        input_grad, *rest = self.flat_primals(results)
        return (input_grad, *rest) if request.input else tuple(rest)

    def _arguments(self, primals: Sequence[Any]) -> tuple[Any, ...]:
        return *self.primal_arguments(primals), *self.settings()

    def primal_arguments(self, primals: Sequence[Any]) -> tuple[Any, ...]:
        """The primals, or what there is one of for each, as an op's arguments lie."""
        if self.extras is None:
            data = 1 + self.cell.states
            return *primals[:data], list(primals[data:])
        input, *lists = self.split(primals)
        return input, *map(list, lists)

    def settings(self) -> tuple[Any, ...]:
        """What else the op takes, from batch_sizes on."""
        e = self.extras
        if e is None:
            return self.batch_sizes, self.bidirectional, self.allow_tf32
        how = self.bidirectional, self.allow_tf32, e.state_grad_clip, e.return_cells
        activations = [_ACTIVATIONS.index(name) for name in (e.activation, e.output_activation)]
        return self.batch_sizes, *self.masks(), e.share_h, e.share_c, *how, *activations

    def grad_arguments(self, grads: Sequence[Any]) -> tuple[Any, ...]:
        """The outputs' gradients, or what there is one of for each, as a backward op's arguments lie."""
        if self.extras is None:
            return tuple(grads)
        of_cells = grads[-1] if self.returns_cells else None
        return grads[0], grads[1], grads[2] if self.cell.states > 1 else None, of_cells

    def flat_primals(self, arguments: Sequence[Any]) -> list[Any]:
        """What a backward op returns, or a forward op's arguments, in the order of the primals."""
        if self.extras is None:
            data = 1 + self.cell.states
            return [*arguments[:data], *arguments[data]]
        input, states, resets, weights = arguments[:4]
        return [input, *states, *resets, *weights]

    def flat_outputs(self, results: Sequence[Any]) -> list[Any]:
        """What a forward op returns, less the reserve, or gradients of that, in the order of the outputs."""
        if self.extras is None:
            return list(results)
        output, finals, cells = results
        return [output, *finals, cells] if self.returns_cells else [output, *finals]

    # The tensors that are not differentiated.

    def masks(self) -> tuple[Tensor | None, ...]:
        e = self.extras
        return () if e is None else (e.cuts, e.h_mask, e.kept_h, e.kept_c)

    def without_masks(self) -> Call:
        return self if _no_tensor(self.masks()) else self._with((None,) * len(_MASKS))

    def with_masks(self, masks: MaybeTensors) -> Call:
        return self if _no_tensor(masks) else self._with(masks)

    def _with(self, masks: MaybeTensors) -> Call:
        return _replaced(self, extras=_replaced(self.extras, **dict(zip(_MASKS, masks, strict=True))))

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


def _no_tensor(masks: MaybeTensors) -> bool:
    return all(mask is None for mask in masks)


def _replaced(whole: Any, **fields: Any) -> Any:
    """As dataclasses.replace, which takes 10 us to check what is known here, at every step of a training."""
    copy = object.__new__(type(whole))
    copy.__dict__.update(whole.__dict__, **fields)
    return copy


def call_of_forward(cell: Cell, plain: bool, arguments: Sequence[Any]) -> tuple[Call, list[Tensor]]:
    """The call and its primals from the arguments of a public forward op."""
    if plain:
        batch_sizes, bidirectional, allow_tf32 = arguments[-3:]
        call = Call(cell, bidirectional, batch_sizes, allow_tf32)
    else:
        batch_sizes, cuts, h_mask, kept_h, kept_c, share_h, share_c, *how = arguments[4:]
        bidirectional, allow_tf32, clip, return_cells, *activations = how
        names = [_ACTIVATIONS[activation] for activation in activations]
        extras = Extras(cuts, h_mask, kept_h, kept_c, share_h, share_c, clip, return_cells, *names)
        call = Call(cell, bidirectional, batch_sizes, allow_tf32, extras, bool(arguments[2]))
    return call, call.flat_primals(arguments)


def call_of_backward(
    cell: Cell, plain: bool, arguments: Sequence[Any]
) -> tuple[Call, Request, MaybeTensors, list[Tensor]]:
    """The call, its request, the outputs' gradients and the primals from the arguments of a public backward op."""
    grads, data = (1 + cell.states, 2 + cell.states) if plain else (4, 4)
    settings, request = arguments[grads + data + 2 : -len(Request._fields)], arguments[-len(Request._fields) :]
    call, primals = call_of_forward(cell, plain, (*arguments[grads : grads + data], *settings))
    if plain:
        return call, Request(*request), arguments[:grads], primals
    of_output, *of_states, of_cells = arguments[:grads]
    return call, Request(*request), call.flat_outputs((of_output, of_states[: cell.states], of_cells)), primals


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
