"""From torch.nn's modules to ours and back, in models that are there already or in code that builds its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

import torch
from torch import nn
from torch.nn.utils import parametrize

from . import adopted
from ._bindings import Binding, bindings, is_of
from ._call import checks
from .modules import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .modules.base import Cell, Layer
from .modules.jordan import JordanRNN
from .modules.own import OwnLayer, OwnStep

Model = TypeVar("Model", bound=nn.Module)

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
# By torch.nn's, the classes that are both.
BOTH: dict[type[nn.Module], type[nn.Module]] = {theirs: getattr(adopted, theirs.__name__) for theirs in OURS}
TORCHS = {ours: theirs for table in (OURS, BOTH) for theirs, ours in table.items()}

_NAMES = {theirs.__name__ for theirs in OURS}

# What only one of the two keeps beside parameters and settings.
_TORCHS_OWN = ("_flat_weights", "_flat_weight_refs")
_OUR_OWN = ("_assigned", "_frozen", "_options", "_warned_of_parameters")

_OWN_FORWARD = "its forward was replaced on the object, by what may still call the forward of its class"


@dataclass(frozen=True)
class Report:
    """What :func:`convert` did: names of modules as in ``model.named_modules()``, "" for the model itself.

    ``str()`` is a line for each.
    """

    converted: dict[str, str]  # by name: the class that the module has now
    left: dict[str, str]  # by name: why a recurrent module was left as it is

    def __str__(self) -> str:
        lines = [f"{name or '(the model)'}: now {kind}" for name, kind in self.converted.items()]
        lines += [f"{name or '(the model)'}: left as it is, {reason}" for name, reason in self.left.items()]
        return "\n".join(lines) or "no recurrent modules"


@overload
def convert(model: Model, report: Literal[False] = False, fullgraph: bool = False) -> Model: ...


@overload
def convert(model: Model, report: Literal[True], fullgraph: bool = False) -> tuple[Model, Report]: ...


def convert(model: Model, report: bool = False, fullgraph: bool = False) -> Model | tuple[Model, Report]:
    """Make every ``nn.RNN``, ``LSTM``, ``GRU`` and cell in a model fastrnn's, in place.

    The modules stay the same objects with the same parameters, parametrizations and hooks, so optimizers, state_dicts,
    tied weights and references from elsewhere go on working; their class alone changes. Subclasses are left alone, for
    nobody knows what they rely on, and so are modules whose ``forward`` was replaced on the object, as accelerate's
    hooks do, modules with a ``qconfig``, which are to be quantized, and modules whose calls fastrnn would refuse: of a
    dtype, or on a device, for which this build has no kernels. A second call finds nothing to do.

    What was an ``nn.LSTM`` is one still, to those who ask ``isinstance``: its class is both (``fastrnn.adopted``). Such
    RNN, LSTM and GRU layers torch.compile leaves out of its graphs, as it does torch.nn's.

    Args:
        model: any module; a recurrent layer by itself will do.
        report: whether to tell what was done. Default False.
        fullgraph: whether to make them fastrnn's alone, which torch.compile takes into its graphs, and of which
            ``isinstance(layer, nn.LSTM)`` is False; those that an earlier call has made both, too. Default False.

    Returns:
        The model, or with ``report`` the model and a :class:`Report`.

    Raises:
        TypeError: if model is not a module.
    """
    found, table = Report({}, {}), _table(fullgraph)
    for name, module in modules_of(model, "convert"):
        kind = _class_of(module)
        if kind in table:
            reason = _why_left(module)
            if reason:
                found.left[name] = reason
                continue
            _become(module, table[kind], _TORCHS_OWN if kind in OURS else ())
            found.converted[name] = f"fastrnn.{table[kind].__name__}"
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and not isinstance(module, (Layer, Cell)):
            found.left[name] = f"{kind.__module__}.{kind.__qualname__} is a class of its own"
        elif isinstance(module, torch.jit.ScriptModule) and module.original_name in _NAMES:
            found.left[name] = f"torch.jit has compiled this {module.original_name}. Convert before scripting"
    return (model, found) if report else model


def to_torch(model: Model) -> Model:
    """Make every fastrnn layer and cell in a model torch.nn's, in place: what :func:`convert` undoes.

    For what torch does with its own modules alone, such as TorchScript and quantisation.

    Args:
        model: any module.

    Returns:
        The model.

    Raises:
        TypeError: if model is not a module.
        ValueError: if a layer is more than torch.nn's (:class:`fastrnn.Options`, :class:`fastrnn.JordanRNN`,
            :func:`fastrnn.cell`), or its ``forward`` was replaced on the object; then nothing was changed.
    """
    modules = list(modules_of(model, "to_torch"))
    for name, module in modules:
        if isinstance(module, (JordanRNN, OwnLayer, OwnStep)) or getattr(module, "options", None) is not None:
            raise ValueError(
                f"to_torch: {name or 'the model'} is {module}, and torch.nn has nothing like it. Replace it first"
            )
        if _class_of(module) in TORCHS and "forward" in vars(module):
            raise ValueError(f"to_torch: {name or 'the model'} cannot change, {_OWN_FORWARD}. Undo that first")
    for _, module in modules:
        kind = _class_of(module)
        if kind in TORCHS:
            _become(module, TORCHS[kind], _OUR_OWN)
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()
    return model


@dataclass(frozen=True)
class Patched:
    """Where :func:`patched` put fastrnn's classes, and where it left torch.nn's: names of Python's modules, of their
    classes and tables, each with the names that stand for torch.nn's classes there. And what was built since. ``str()``
    is a line for each.
    """

    patched: dict[str, list[str]]
    missed: dict[str, list[str]]  # code in these modules builds torch.nn's layers still
    # Recurrent layers and cells that became part of another nn.Module within the block, also those of torch.nn and of
    # its subclasses: by the class and attribute that hold them, "Encoder.lstm", their class.
    built: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{module}: {', '.join(names)} patched" for module, names in self.patched.items()]
        lines += [f"{module}: {', '.join(names)} torch.nn's still" for module, names in self.missed.items()]
        lines += [f"{place}: built as {kind}" for place, kind in self.built.items()]
        return "\n".join(lines)

    def _note(self, holder: nn.Module, name: str, module: nn.Module | None) -> None:
        """What torch calls when a module is made part of another."""
        if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            kind = type(module)
            home = __package__ if kind in TORCHS else kind.__module__
            self.built[f"{type(holder).__qualname__}.{name}"] = f"{home}.{kind.__qualname__}"


@contextmanager
def patched(*packages: str, fullgraph: bool = False) -> Iterator[Patched]:
    """Within ``with fastrnn.patched():``, ``torch.nn.RNN``, ``LSTM``, ``GRU`` and the cells are fastrnn's.

    For code that builds its own layers and looks the classes up in ``torch.nn`` or ``torch.nn.modules`` then. A module
    that bound one earlier, by ``from torch.nn import LSTM``, as an attribute of a class or in a dictionary of classes,
    goes on with torch.nn's, unless its package is named; so do layers that exist. What was built within stays
    fastrnn's, and is torch.nn's, too, like what :func:`convert` makes; within, ``isinstance(layer, nn.LSTM)`` is about
    these. The classes change for all threads. A module imported within for the first time gets torch.nn's classes
    back, but not where it derived classes from them: import before the block.

    Args:
        packages: whose modules, as far as they are imported, are patched as well: ``patched("torch_geometric")``.
        fullgraph: whether they are fastrnn's alone, as :func:`convert` says. Even so torch.compile leaves what
            ``torch.nn.RNN``, ``LSTM`` and ``GRU`` name out of its graphs, and within the block they name these: compile
            after it. Default False.

    Yields:
        A :class:`Patched`, which tells what other modules hold torch.nn's classes, and what is built.

    Raises:
        ValueError: for a package of which nothing is imported.
    """
    table = OURS if fullgraph else BOTH
    for package in packages:
        if not any(is_of(name, package) for name in sys.modules):
            raise ValueError(f"patched: nothing of {package!r} is imported. Import it before the block")
    imported = set(sys.modules)

    def is_named(module: str) -> bool:
        return any(is_of(module, package) for package in packages)

    def is_named_or_new(module: str) -> bool:
        return module not in imported or is_named(module)

    before = {binding.place for binding in bindings(BOTH.values(), is_named)}
    bound, missed = _split(bindings(OURS, is_named), is_named)
    found = Patched(_by_home(bound), _by_home(missed))
    watch = nn.modules.module.register_module_module_registration_hook(found._note)
    try:
        for binding in bound:
            binding.bind(table[binding.value])
        yield found
    finally:
        watch.remove()
        for binding in bound:
            binding.bind(binding.value)
        # What a module has bound meanwhile: one that was imported for the first time, say. Not of fastrnn's own
        # classes, which it may have from here.
        for binding in bindings(BOTH.values(), is_named_or_new):
            if binding.place not in before:
                binding.bind(TORCHS[binding.value])


def _split(found: list[Binding], is_named: Callable[[str], bool]) -> tuple[list[Binding], list[Binding]]:
    """Of what stands for torch.nn's classes: what to patch, and what other modules have."""
    homes = {nn.__name__, nn.modules.__name__, nn.modules.rnn.__name__}
    ours, others = [], []
    for binding in found:
        if binding.module in homes or is_named(binding.module):
            ours.append(binding)
        elif not is_of(binding.module, "torch"):
            others.append(binding)
    return ours, others


def _by_home(found: list[Binding]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for binding in found:
        names.setdefault(binding.home, []).append(str(binding.name))
    return names


def _table(fullgraph: bool) -> dict[type[nn.Module], type[nn.Module]]:
    """What :func:`convert` makes of each class."""
    if not fullgraph:
        return BOTH
    return OURS | {both: OURS[theirs] for theirs, both in BOTH.items()}


def modules_of(model: nn.Module, caller: str) -> Iterator[tuple[str, nn.Module]]:
    """A model's modules and their names; TypeError if it is none."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{caller} takes a torch.nn.Module, got {type(model).__name__}")
    return model.named_modules()


def _class_of(module: nn.Module) -> type[nn.Module]:
    """The module's class; torch.nn.utils.parametrize puts one of its own in front of it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _why_left(module: nn.Module) -> str:
    """What speaks against our forward in a module's place of torch.nn's; "" if nothing does."""
    if "forward" in vars(module):
        return _OWN_FORWARD
    if vars(module).get("qconfig") is not None:
        return "its qconfig says that torch.ao.quantization is to quantize it"
    if len({(weight.dtype, weight.device) for weight in module.parameters(recurse=False)}) > 1:
        return "its weights differ in dtype or device"
    for parameter in module.parameters():
        lack = checks.missing_kernels(parameter.dtype, parameter.device)
        if lack is not None:
            return lack[0]
    return ""


def _become(module: nn.Module, kind: type[nn.Module], leave_out: tuple[str, ...]) -> None:
    for name in leave_out:
        module.__dict__.pop(name, None)
    if parametrize.is_parametrized(module):
        old = type(module)
        own: dict[str, Any] = {k: v for k, v in vars(old).items() if k not in ("__dict__", "__weakref__")}
        make: Callable[..., type[nn.Module]] = type
        kind = make(f"Parametrized{kind.__name__}", (kind,), own)
    module.__class__ = kind
