"""Where Python's modules keep classes: under global names, as attributes of their classes, in tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, eq=False)
class Binding:
    module: str
    home: str  # the module's name, with that of its class or table behind it
    holder: ModuleType | type | dict[Any, Any]
    name: Any
    value: type

    @property
    def place(self) -> tuple[int, Any]:
        """The same for the same name of the same holder, which need not be hashable."""
        return id(self.holder), self.name

    def bind(self, value: type) -> None:
        if isinstance(self.holder, dict):
            self.holder[self.name] = value
        else:
            setattr(self.holder, self.name, value)


def bindings(classes: Iterable[type], inside: Callable[[str], bool]) -> list[Binding]:
    """What stands for one of these classes in modules, but for fastrnn's own: their global names; where ``inside`` is
    true of the module's name, attributes of the classes defined there and the values of tables as well."""
    wanted = set(map(id, classes))  # other values need not be hashable
    return [
        Binding(module.__name__, home, holder, key, value)
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and not is_of(name, __package__)
        for home, holder in _holders(module, inside(module.__name__))
        for key, value in list((holder if isinstance(holder, dict) else vars(holder)).items())
        if id(value) in wanted
    ]


def is_of(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _holders(module: ModuleType, inside: bool) -> Iterator[tuple[str, ModuleType | type | dict[Any, Any]]]:
    yield module.__name__, module
    if not inside:
        return
    yield from _tables(module.__name__, module)
    for value in list(vars(module).values()):
        if isinstance(value, type) and value.__module__ == module.__name__:
            home = f"{module.__name__}.{value.__qualname__}"
            yield home, value
            yield from _tables(home, value)


def _tables(home: str, holder: ModuleType | type) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The dictionaries under its names, but for Python's own, such as annotations."""
    for name, value in list(vars(holder).items()):
        if type(value) is dict and not name.startswith("__"):  # others may load what they have when they are looked at
            yield f"{home}.{name}", value
