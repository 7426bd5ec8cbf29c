"""The cells there are, as the kernels' own list says (csrc/cells/list.h)."""

from __future__ import annotations

from typing import NamedTuple

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
