"""Which kernel a call runs, and why: ``print(fastrnn.explain(lstm, input))``.

The module's own forward tells: it runs as far as the ops, which are recorded in place of run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from . import _native
from ._call import checks, precision
from ._explanation import Explanation, Row
from ._ops import autograd, schema
from ._ops.cells import CELLS, missing_kernels
from .modules.base import Cell, Layer
from .modules.jordan import JordanRNN


@dataclass(frozen=True)
class _Op:
    """An op that a call came to, with what of its arguments decides the plan."""

    cell: str
    primals: list[Tensor]  # input, states, weights
    batch_sizes: Tensor | None
    bidirectional: bool
    allow_tf32: bool
    packed: Tensor | None
    extended: bool
    keeps: bool  # a reserve for backward
    records: bool  # whether a gradient could flow to one of the tensors

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def layers(self) -> int:
        """That run in one call, one on another."""
        hx = self.primals[1]
        return hx.shape[0] // self.directions if hx.dim() == 3 else 1


class _Recorder(TorchDispatchMode):
    """Records the layers' ops, which return memory that nothing was written to. Other ops run."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[_Op] = []
        self._grad_enabled = torch.is_grad_enabled()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in schema.FAKES:
            return func(*args, **(kwargs or {}))
        self.ops.append(self._record(func, args))
        fake: Any = schema.FAKES[func]
        told = fake(*tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, args))
        # On the meta device but for what the layers' own results are computed from: a reserve may be large.
        device = self.ops[-1].primals[0].device
        return tree_map(lambda leaf: torch.empty_like(leaf, device=device) if leaf.dim() > 1 else leaf, told)

    def _record(self, func: Any, args: Any) -> _Op:
        given = dict(zip([argument.name for argument in func._schema.arguments], args, strict=True))
        cell, resets = given["cell"], []
        plain = "primals" in given
        if plain:
            primals = list(given["primals"])
        else:
            count = CELLS[cell].states
            primals = [given["input"], *given["states"][:count], *given["weights"]]
            resets = given["states"][count:]
        keeps = func in (schema.plain_forward, schema.raw_forward)
        records = self._grad_enabled and any(tensor.requires_grad for tensor in (*primals, *resets))
        settings = given["batch_sizes"], given["bidirectional"], given["allow_tf32"]
        return _Op(cell, primals, *settings, given.get("packed"), not plain, keeps, records)


def explain(module: nn.Module, *args: Any, **kwargs: Any) -> Explanation:
    """Tell how ``module(*args, **kwargs)`` would run, without running it.

    Args:
        module: a fastrnn layer or cell.
        args, kwargs: what it would be called with. Shapes, dtypes and devices count, values do not; meta tensors will
            do, but then nothing runs and there is no kernel to name.

    Returns:
        An :class:`Explanation` with a row for each layer, direction and pass. The backward rows hold for grad mode and
        ``requires_grad`` as they are now; if no gradient would be recorded their path is "none".

    Raises:
        TypeError: if module is not one of fastrnn's.
        What the call itself would raise for arguments it refuses.
    """
    if not isinstance(module, (Layer, JordanRNN, Cell)):
        raise TypeError(f"explain takes a fastrnn layer or cell itself, got {checks.describe_module(module)}")
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"explain takes what the module would be called with, explain(module, input): {error}"
        ) from None
    given = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), torch.empty(0))
    if autograd.takes_formula():
        return Explanation(tuple(_formula_rows(module, given, "forward-mode AD: torch ops, slow")))
    lack = _missing_kernels(module, given)
    if lack:
        return Explanation(tuple(_formula_rows(module, given, f"no kernels: {lack}; torch ops, slow")))
    on_gpu = given.is_cuda and torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=[given.device] if on_gpu else []), _Recorder() as recorder:
        module.forward(*args, **kwargs)
    why_not_packed = "" if isinstance(module, JordanRNN) else module._why_not_packed()
    rows: list[Row] = []
    first = 0
    for op in recorder.ops:
        rows += [_row(op, first, *place, given.dtype, why_not_packed) for place in _passes(op.layers, op.directions)]
        first += op.layers
    return Explanation(tuple(rows))


def _passes(layers: int, directions: int) -> Iterator[tuple[int, str, bool]]:
    """Layer, direction and whether it is backward, of each pass."""
    for layer in range(layers):
        for direction in ("forward", "reverse")[:directions]:
            yield layer, direction, False
            yield layer, direction, True


def _missing_kernels(module: Layer | JordanRNN | Cell, given: Tensor) -> str:
    """Why a module of a cell of one's own must do with torch ops, "" if it need not."""
    cell, dtype = "jordan" if isinstance(module, JordanRNN) else module._stacked()[0], _computed_dtype(given)
    if checks.missing_kernels(dtype, given.device) is not None:  # the call refuses
        return ""
    return missing_kernels(cell, given.device.type, dtype)


def _computed_dtype(given: Tensor) -> torch.dtype:
    return precision.computed_dtype(given, precision.result_dtype(given))


def _formula_rows(module: nn.Module, given: Tensor, reason: str) -> Iterator[Row]:
    """Torch ops, step by step."""
    dtype = _computed_dtype(given)
    numbers = _name(dtype) + (" in float32" if dtype in precision.HALF_DTYPES else "")
    if given.dtype in precision.HALF_DTYPES and dtype not in precision.HALF_DTYPES:
        numbers = f"{_name(given.dtype)} in {numbers}"
    records = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in module.parameters())
    threads = torch.get_num_threads() if given.is_cpu else 0
    directions = 2 if getattr(module, "bidirectional", False) else 1
    for layer, direction, backward in _passes(getattr(module, "num_layers", 1), directions):
        where = layer, direction, "backward" if backward else "forward", str(given.device)
        if backward and not (records or given.requires_grad):
            yield Row(*where, "none", "", "", "", "", "", 0, numbers, 0, _NO_GRADIENT)
        else:
            yield Row(*where, "formula", "", "", "", "", "", threads, numbers, 0, reason)


_NO_GRADIENT = "no gradient: grad mode is off or nothing requires grad"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _precision_of(op: _Op, given: torch.dtype) -> str:
    """What numbers a call computes with that was given such an input."""
    dtype, weights = op.primals[0].dtype, op.primals[-1].dtype
    if op.packed is not None and op.packed.dtype != dtype:  # rounded by pack_weights(dtype)
        weights = op.packed.dtype
    if dtype in precision.HALF_DTYPES:
        return f"{_name(dtype)}, sums in float32"
    if op.allow_tf32:
        return f"{_name(dtype)} on TF32"
    if weights != dtype:
        return f"{_name(dtype)} on {_name(weights)} weights"
    return f"{_name(given)} in {_name(dtype)}" if given in precision.HALF_DTYPES else _name(dtype)


def _row(
    op: _Op, first: int, layer: int, direction: str, backward: bool, given: torch.dtype, why_not_packed: str
) -> Row:
    input = op.primals[0]
    where = first + layer, direction, "backward" if backward else "forward", str(input.device)
    numbers = _precision_of(op, given)
    if backward and not (op.records or input.is_meta):
        return Row(*where, "none", "", "", "", "", "", 0, numbers, 0, _NO_GRADIENT)
    plan = _plan(op, backward)
    reason = plan.reason
    if plan.weights and not op.records and why_not_packed:
        reason += f"; not packed ahead: {why_not_packed}"
    runs = plan.path != "none"
    path = plan.path + " with extras" * (runs and op.extended)
    reserve = _reserve_bytes(op, layer) if op.keeps and runs else 0
    how = plan.isa, plan.tile, plan.weights, plan.input_product, plan.gemm
    return Row(*where, path, *how, plan.threads, numbers, reserve, reason)


class _Plan(NamedTuple):
    """What the op tells of a pass, in words."""

    path: str
    isa: str
    tile: str
    threads: int
    weights: str
    input_product: str
    gemm: str
    reason: str


def _plan(op: _Op, backward: bool) -> _Plan:
    settings = op.batch_sizes, op.bidirectional, op.allow_tf32
    path, architecture, rows, columns, threads, weights, input_product, gemm, reasons = schema.plan(
        op.cell, op.primals, *settings, op.packed, op.extended, backward
    )
    words = _native.plan_words

    def word(of: str, number: int) -> str:
        return words[of][number] if number >= 0 else ""

    return _Plan(
        path=word("path", path),
        isa=f"sm_{architecture}" if architecture else _native.isa if rows else "",
        tile=f"{rows}x{columns}" if rows else "",
        threads=threads,
        weights=word("weights", weights),
        input_product=word("input_product", input_product),
        gemm=word("gemm", gemm),
        reason="; ".join(word("reason", reason) for reason in reasons),
    )


def _reserve_bytes(op: _Op, layer: int) -> int:
    """Of one direction of that layer of the call's."""
    input, hx = op.primals[:2]
    rows = math.prod(input.shape[:-1])
    hidden_size = CELLS[op.cell].hidden_size(hx, op.primals[1 + CELLS[op.cell].states])
    handed_on = hx.shape[-1] if layer < op.layers - 1 else 0
    return _native.reserve_values(op.cell, input.dtype, rows, hidden_size, handed_on) * input.dtype.itemsize
