"""A forecast: how many sunspots next year will have.

statsmodels brings the yearly numbers from 1700 to 2008. A GRU reads the years in order and says, after each, how much
the next one will differ; it is trained on stretches of the years before 1930 and measured on those since, which it
reads from 1700 on. To beat is the guess that a year will be like the one before.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from pictures import plt, save
from running import Task, main
from statsmodels.datasets import sunspots
from torch import Tensor, nn

FIRST_HELD_OUT = 1930
BATCH, LENGTH = 32, 60
SCALE = 100.0  # spots


class Forecaster(nn.Module):
    """(T, B) in hundreds of spots in, the same a year later out."""

    def __init__(self, gru: type[nn.Module]) -> None:
        super().__init__()
        self.gru = gru(1, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, years: Tensor) -> Tensor:
        return years + self.head(self.gru(years.unsqueeze(-1))[0]).squeeze(-1)


class Sunspots(Task):
    """The task of this file."""

    name = "sunspots"
    steps = 250  # after more, it knows the years before 1930 by heart
    learning_rate = 5e-3
    figure = "less error than the guess of no change, as a share"
    least = 0.35

    def __init__(self) -> None:
        data = sunspots.load_pandas().data
        self.years = torch.tensor(data["YEAR"].to_numpy(dtype="float32"))
        self.spots = torch.tensor(data["SUNACTIVITY"].to_numpy(dtype="float32")) / SCALE
        self.known = int((self.years < FIRST_HELD_OUT).sum())

    def build(self, package: ModuleType) -> nn.Module:
        return Forecaster(package.GRU)

    def loss(self, model: nn.Module) -> Tensor:
        begins = torch.randint(self.known - LENGTH - 1, (BATCH,))
        stretches = torch.stack([self.spots[begin : begin + LENGTH + 1] for begin in begins.tolist()], 1)
        return F.mse_loss(model(stretches[:-1]), stretches[1:])

    def forecast(self, model: nn.Module) -> Tensor:
        """Of every held-out year, from all years before it."""
        return model(self.spots[:-1].unsqueeze(1)).squeeze(1)[self.known - 1 :]

    def measure(self, model: nn.Module) -> dict[str, float]:
        truth, before = self.spots[self.known :], self.spots[self.known - 1 : -1]
        error = F.mse_loss(self.forecast(model), truth).sqrt().item()
        no_change = F.mse_loss(before, truth).sqrt().item()
        return {
            "error, spots": SCALE * error,
            "of no change, spots": SCALE * no_change,
            self.figure: 1 - error / no_change,
        }

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        figure, axes = plt.subplots(figsize=(8, 3))
        years = self.years[self.known :]
        axes.plot(years, SCALE * self.spots[self.known :], "k.-", label="seen")
        axes.plot(years, SCALE * self.forecast(model), "tab:orange", label="forecast a year ahead")
        axes.set(ylabel="sunspots")
        axes.legend()
        return save(figure, folder / "sunspots.png")


if __name__ == "__main__":
    sys.exit(main(Sunspots(), __doc__))
