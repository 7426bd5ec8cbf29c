"""The cells there are: those of the kernels' own list (csrc/cells/list.h), and those that users add (fastrnn.cell)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _native


class CellFacts(NamedTuple):
    """What is to be known of a cell without its equations."""

    inner: str  # the cell without layer normalisation: itself, where there is none
    gates: int  # computed at each step: the factor in w_ih's (gates * hidden_size, input_size)
    states: int  # carried from step to step: h, and behind it the cell states, of hidden_size each: an LSTM's c
    plain: bool  # torch.nn has it, too; the others always come with reference.Extras
    # Weights that it has for each unit beside its gates', (., H) behind the others: peepholes; behind them those of
    # layer normalisation, which are the gates' gains for W_ih x and for W_hh h, in the LSTM gain and bias of c.
    peepholes: int
    norm_weights: int
    multiplies_h: bool = True  # there are w_hh and b_hh
    # The last gate is x_t as it is, or if their sizes differ projected, without a bias; w_hh has no rows for it.
    reads_input: bool = False
    # What a layer puts out is not h, but the last state, which is not fed back.
    separate_output: bool = False
    # Of a cell that a user wrote, what finds or makes its kernels: why there are none for this type of device and
    # dtype, "" if there are.
    load: Callable[[str, torch.dtype], str] | None = None

    @property
    def product_gates(self) -> int:
        """Gates with biases and rows in w_hh."""
        return self.gates - self.reads_input

    @property
    def given_states(self) -> int:
        """States that hx and hy hold."""
        return self.states - self.separate_output

    def hidden_size(self, hx: Tensor, w_ih: Tensor) -> int:
        """H. Of a cell that reads x_t, w_ih alone does not tell it; of others hx may be projected."""
        return hx.shape[-1] if self.reads_input else w_ih.shape[0] // self.gates

    def hidden_size_of_weights(self, weights: Sequence[Tensor]) -> int:
        """H, read from the weights of one direction."""
        w_ih, *others = weights
        if not self.reads_input:
            return w_ih.shape[0] // self.gates
        if self.multiplies_h or self.peepholes:  # w_hh, or weights of single units
            return others[-1 if self.peepholes else 0].shape[1]
        if others:
            return others[0].shape[0] // self.product_gates
        rows, input_size = w_ih.shape
        return input_size if rows == self.product_gates * input_size else rows // self.gates


CELLS = {name: CellFacts(**facts) for name, facts in _native.cells.items()}


def facts_of(cell: str) -> CellFacts:
    """The facts of a cell as a graph names it, which may have been exported before the cell became another.

    Raises:
        RuntimeError: if there is none of that name, or of a cell with a hash (`name@hash`) none of that hash.
    """
    if cell in CELLS:
        return CELLS[cell]
    name = cell.partition("@")[0]
    if any(known.partition("@")[0] == name for known in CELLS):
        made_with = f"another version of '{name}', {cell}"
        raise RuntimeError(f"fastrnn: this was exported or compiled with {made_with}: export or compile it again")
    raise RuntimeError(f"fastrnn: unknown cell '{cell}'")


def missing_kernels(cell: str, device: str, dtype: torch.dtype) -> str:
    """Why a call of the cell must do with torch ops, "" if there are kernels for it.

    The first call of a cell that a user wrote compiles them.
    """
    load = CELLS[cell].load
    return load(device, dtype) if load is not None else ""


# Dynamo need not look inside: all arguments are constants of a graph.
missing_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _load(cell: str, is_double: bool) -> str:
    """The same for ops that are called past Python: by an exported program."""
    return missing_kernels(cell, "cpu", torch.float64 if is_double else torch.float32)


_native.set_loader(_load)
