"""Why a peer, or a case of one, is left out."""

from __future__ import annotations

import importlib.metadata


class UnavailableError(Exception):
    """Something cannot be timed here; the text says why."""


def version_of(*packages: str) -> str:
    """The packages with their versions; UnavailableError if one is not installed."""
    try:
        return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    except importlib.metadata.PackageNotFoundError as error:
        raise UnavailableError(f"{error.name} is not installed (requirements-bench.txt)") from error
