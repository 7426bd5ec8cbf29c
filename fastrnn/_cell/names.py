"""The names that a cell is declared with."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence

MAX_GATES = 8
MAX_STATES = 4
RECURRENT = ("dense", "diagonal", "none")

_CPP_KEYWORDS = """
    alignas alignof and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl
    concept const consteval constexpr constinit const_cast continue co_await co_return co_yield decltype default delete
    do double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable
    namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
    requires return short signed sizeof static static_assert static_cast struct switch template this thread_local throw
    true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq
"""


def check_name(name: object, what: str) -> str:
    """Returns the name if it is one in Python and in C++; ``what`` says in an error whose it is."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, got {type(name).__name__}")
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(f"{what} must be an identifier of ASCII letters, got {name!r}")
    if keyword.iskeyword(name) or name in _CPP_KEYWORDS.split():
        raise ValueError(f"{what} can't be {name!r}, a keyword of {'Python' if keyword.iskeyword(name) else 'C++'}")
    return name


def _check_names(names: object, what: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence | Mapping):
        raise TypeError(f"{what}s must be a sequence of names, got {names!r}")
    checked = tuple(check_name(name, f"a {what}") for name in names)
    for name in checked:
        if checked.count(name) > 1:
            raise ValueError(f"{what}s must have names of their own, got {name!r} twice")
    return checked


def gate_names(gates: Sequence[str] | int) -> tuple[str, ...]:
    """The gates' names; "0", "1" ... where only their number is given."""
    if isinstance(gates, int) and not isinstance(gates, bool):
        names = tuple(map(str, range(gates)))
    else:
        names = _check_names(gates, "gate")
    if not 1 <= len(names) <= MAX_GATES:
        raise ValueError(f"a cell has 1 to {MAX_GATES} gates, got {gates!r}")
    return names


def state_names(states: Sequence[str], output: str | None) -> tuple[str, ...]:
    names = _check_names(states, "state")
    if output is not None and check_name(output, "output") in names:
        raise ValueError(f"output={output!r} is a state already: a layer outputs its first state without output=")
    if not 1 <= len(names) <= MAX_STATES:
        raise ValueError(f"a cell has 1 to {MAX_STATES} states, got {states!r}")
    return names


def weight_names(weights: Sequence[str] | Mapping[str, object], taken: Sequence[str]) -> tuple[str, ...]:
    """The weights' names, of which none may be among the function's other parameters."""
    names = _check_names(weights, "weight")
    for name in names:
        if name in taken:
            raise ValueError(f"weight {name!r} has the name of another parameter of the cell's function")
    return names


def check_recurrent(recurrent: object) -> str:
    if recurrent not in RECURRENT:
        raise ValueError(f"recurrent must be one of {', '.join(map(repr, RECURRENT))}, got {recurrent!r}")
    return str(recurrent)
