"""Where opacus hangs itself up in a module, :mod:`fastrnn.opacus` takes its place."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn


class OpacusHooks(nn.Module):
    """Hooks of opacus are not hung up: they would see a part of what a recurrent module is given and returns."""

    def register_forward_hook(self, hook: Any, **options: Any) -> Any:
        owner = getattr(hook, "__self__", None)
        return self._follow(owner) if _is_opacus(owner) else super().register_forward_hook(hook, **options)

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> Any:
        owner = getattr(getattr(hook, "func", None), "__self__", None)  # a partial of a method
        return _Undo(self) if _is_opacus(owner) else super().register_full_backward_hook(hook, prepend)

    def _follow(self, owner: Any) -> Any:
        """From now on, have opacus told of each call what it asks for."""
        from .. import opacus  # imports opacus itself, which is there if it calls

        opacus.check(self, owner)
        # In the object's own dictionary, so that modules which opacus does not know need not ask at every call.
        self.__dict__["_run"] = partial(opacus.run, self, owner)
        return _Undo(self)


class _Undo:
    """What removes a hook that never was."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def remove(self) -> None:
        self._module.__dict__.pop("_run", None)


def _is_opacus(owner: object) -> bool:
    return type(owner).__module__.split(".")[0] == "opacus"
