"""A cell that a user wrote, once its function is traced: what layers, ops and kernels are told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from .. import _native, reference
from .._call import checks
from .._ops.cells import CELLS, CellFacts
from ..reference import States, Weights
from .build import CannotCompileError, library_of
from .derive import Backward, derive
from .emit import cell_name, header
from .graph import Graph, evaluate
from .refuse import warn_caller

_REGISTRATION = threading.Lock()


class OwnCell:
    """A user's cell.

    Attributes:
        name: of the class that users see.
        key: what ops and graphs call it, its name and a hash of what it computes.
        graph: what its function computes.
        initialisers: by name of a per-unit weight, what fills it.
    """

    def __init__(self, name: str, graph: Graph, initialisers: dict[str, Callable[[Tensor], Any]]) -> None:
        self.name, self.graph, self.initialisers = name, graph, initialisers
        self.key = cell_name(graph, name)
        self._lock = threading.Lock()
        self._troubles: dict[torch.dtype, str] = {}  # of the dtypes whose kernels were asked for

    @cached_property
    def _backward(self) -> Backward:
        return derive(self.graph)

    def source(self) -> str:
        """The C++ header of the cell's kernels."""
        return header(self.graph, self._backward, self.name)

    def register(self) -> None:
        """Make the cell known to ops, kernels and the reference."""
        with _REGISTRATION:
            if self.key not in CELLS:  # else the same maths under the same name: a module that is imported anew
                self._register()

    def _register(self) -> None:
        graph, backward = self.graph, self._backward
        _ = graph.program  # now, since Dynamo cannot trace how it is made
        gates, states = len(graph.gates) + graph.reads_input, len(graph.results)
        _native.add_cell(
            name=self.key,
            gates=gates,
            saved_values=backward.saved_values,
            cell_states=states - 1,
            per_unit_weights=graph.per_unit_weights,
            multiplies_h=graph.recurrent == "dense",
            reads_input=graph.reads_input,
            recurrent_slots=list(backward.recurrent_slots),
        )
        reference.STEPS[self.key] = partial(_step, graph)
        checks.LAYER_NAMES[self.key] = self.name
        checks.STATE_NAMES[self.key] = f"({', '.join(graph.states)})"
        checks.CELL_NAMES[self.key] = f"{self.name}.Cell"
        CELLS[self.key] = CellFacts(
            inner=self.key,
            gates=gates,
            states=states,
            plain=True,
            peepholes=graph.per_unit_weights,
            norm_weights=0,
            multiplies_h=graph.recurrent == "dense",
            reads_input=graph.reads_input,
            separate_output=graph.output is not None,
            load=self.load,
        )

    def load(self, device: str, dtype: torch.dtype) -> str:
        """Find or compile the kernels; why there are none, "" if there are."""
        if device == "meta":
            return ""
        if device != "cpu":
            return "cells of one's own have kernels for the CPU alone"
        trouble = self._troubles.get(dtype)
        if trouble is None:
            with self._lock:
                trouble = self._troubles.get(dtype)
                if trouble is None:
                    trouble = self._troubles[dtype] = self._load(dtype)
        return trouble

    def _load(self, dtype: torch.dtype) -> str:
        try:
            library = library_of(self.name, self.source(), dtype)
            _native.load_cell(name=self.key, path=str(library), is_double=dtype == torch.float64)
        except (CannotCompileError, OSError, RuntimeError) as error:
            warn_caller(f"{self.name} runs step by step on torch ops, which is slow: {error}")
            return str(error)
        return ""


def _step(graph: Graph, x_gates: Tensor, states: States, weights: Weights, h_mask: Tensor | None) -> States:
    """One step by the graph, as ``fastrnn.reference.STEPS`` has those of the other cells."""
    count = len(graph.gates)
    x = x_gates.chunk(count + graph.reads_input, dim=-1)
    r: tuple[Tensor, ...] = ()
    if graph.recurrent == "dense":
        assert weights.w_hh is not None
        h = states[0] if h_mask is None else states[0] * h_mask
        r = reference.product(h, weights.w_hh, weights.b_hh, None).chunk(count, dim=-1)
    units = () if weights.peepholes is None else weights.peepholes.unbind(0)
    given = states[: len(graph.states)]
    results = evaluate(graph, x[:count], r, given, units, x[-1] if graph.reads_input else None)
    return results if graph.output is None else (*results[1:], results[0])
