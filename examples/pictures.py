"""Where the examples' pictures come from: matplotlib, drawing to files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("Agg")  # files only: no display is needed
from matplotlib import pyplot as plt

__all__ = ["plt", "save"]


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the picture and forget the figure; the files written."""
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [path]
