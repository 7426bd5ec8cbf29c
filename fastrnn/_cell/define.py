"""``fastrnn.cell``: from a function of one time step to classes of layers and cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..modules.own import OwnLayer, OwnStep, check_weight_names
from .names import check_name
from .own import OwnCell
from .trace import trace


def cell(
    gates: Sequence[str] | int,
    states: Sequence[str] = ("h",),
    recurrent: str = "dense",
    weights: Sequence[str] | Mapping[str, Callable[[Tensor], Any]] = (),
    input: bool = False,
    output: str | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], type[OwnLayer]]:
    """Makes a recurrent layer of a function that computes one time step of it, with kernels of its own.

    ::

        @fastrnn.cell(gates=("z", "a"))
        def LiGRU(x, r, h):
            z = torch.sigmoid(x.z + r.z)
            a = torch.relu(x.a + r.a)
            return z * h + (1 - z) * a

        layer = LiGRU(64, 128, num_layers=2, bidirectional=True)
        output, hy = layer(torch.randn(50, 8, 64))
        step = LiGRU.Cell(64, 128)

    The function is called once, at definition, with values that record what is done to them; what it computes is then
    fixed, Python numbers included. It sees one unit of one sequence, so all it may do is elementwise: ``+ - * /``,
    negation, powers of a number, comparisons, and of torch (and as methods, and of ``torch.nn.functional``): square,
    reciprocal, sqrt, rsqrt, abs, exp, expm1, log, log1p, sigmoid, logsigmoid, tanh, relu, leaky_relu, elu, softplus,
    silu, gelu with ``approximate="tanh"``, hardsigmoid, clamp, minimum, maximum, where; and ``detach()``.

    The first call for a dtype compiles the kernels with g++, for this processor, and keeps them on disk where torch
    keeps extensions (``TORCH_EXTENSIONS_DIR``); ``FASTRNN_COMPILE=0`` forbids it. Where there can be no kernels the
    layer runs on torch ops, step by step, and :func:`fastrnn.explain` says why.

    Args:
        gates: names of the gates, or how many there are: the row blocks of ``weight_ih``, in order. ``x.z`` is gate z's
            part of ``W_ih x_t + b_ih`` and ``r.z`` of ``W_hh h_{t-1} + b_hh``; without names they are ``x[0]`` and so
            on.
        states: names of the states, up to four, as the function's parameters name them. The function returns the next
            ones in their order. ``r`` always comes of the first; hx and hy are a tensor for one, a tuple for more.
        recurrent: "dense": ``weight_hh`` (G*H, H); "diagonal": ``weight_hh`` (G, H), ``r[k]`` is
            ``weight_hh[k] * h_{t-1}``, and there is no ``bias_hh``; "none": neither, and the function has no ``r``.
        weights: names of weights of single units, (H,), which the function takes by keyword; or a dict of name to what
            fills the tensor, such as ``torch.nn.init.zeros_``.
        input: whether the function takes x_t itself, first. Where I is not H, the layer projects it: ``weight_ih`` then
            has H more rows.
        output: a name for what the function returns first, before the states: what the layer puts out in place of the
            first state, and does not feed back.
        name: of the class, by default the function's.

    Returns:
        A decorator that returns a subclass of ``fastrnn.modules.own.OwnLayer``; its ``Cell`` runs single steps, its
        ``source()`` is the C++ that was made of it.

    Raises:
        TypeError, ValueError: for what a cell can't do. The message names the line of the function.
    """

    def decorate(function: Callable[..., Any]) -> type[OwnLayer]:
        graph = trace(function, gates, states, recurrent, weights, input, output)
        check_weight_names(graph.weights)
        class_name = check_name(name if name is not None else getattr(function, "__name__", "Cell"), "name")
        initialisers = dict(weights) if isinstance(weights, Mapping) else {}
        own = OwnCell(class_name, graph, initialisers)
        own.register()
        return _classes(function, own)

    return decorate


def _classes(function: Callable[..., Any], own: OwnCell) -> type[OwnLayer]:
    """The layer's class, where the function stood, and within it the cell's."""
    place = getattr(function, "__qualname__", own.name).rpartition(".")[0]
    qualname = f"{place}.{own.name}" if place else own.name
    common = {"_own": own, "__module__": getattr(function, "__module__", __name__)}
    doc = getattr(function, "__doc__", None)
    step = type("Cell", (OwnStep,), {**common, "__qualname__": f"{qualname}.Cell", "__doc__": doc})
    return type(own.name, (OwnLayer,), {**common, "__qualname__": qualname, "__doc__": doc, "Cell": step})
