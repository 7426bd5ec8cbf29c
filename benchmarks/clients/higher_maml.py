# /// script
# dependencies = ["higher==0.2.1"]
# ///
"""higher: MAML of a GRU and an LSTM on sines; second derivatives, weights that are no parameters."""

from __future__ import annotations

import higher
import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from torch import Tensor, nn

TASKS, SERIES, LENGTH, HIDDEN_SIZE, INNER, UPDATES = 2, 8, 24, 48, 5, 5


class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, HIDDEN_SIZE, batch_first=True)
        self.lstm = nn.LSTM(HIDDEN_SIZE, HIDDEN_SIZE, batch_first=True)
        self.head = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.lstm(self.gru(series)[0])[0])


def task() -> tuple[Tensor, Tensor]:
    """Series of one frequency, to learn from and to be judged by."""
    phases = 2 * torch.pi * torch.rand(2, SERIES, 1, 1)
    series = torch.sin((0.2 + 0.6 * torch.rand(1)) * torch.arange(LENGTH + 1.0)[:, None] + phases)
    return series[0], series[1]


def error(model: nn.Module, series: Tensor) -> Tensor:
    return F.mse_loss(model(series[:, :-1]), series[:, 1:])


def prepare(impl: Impl) -> Train:
    model = Forecaster()
    impl.convert(model)
    impl.check(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)

    def update() -> float:
        optimizer.zero_grad()
        losses = []
        for _ in range(TASKS):
            seen, held_out = task()
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (learner, steps):
                for _ in range(INNER):
                    steps.step(error(learner, seen))
                loss = error(learner, held_out)
                loss.backward()
                losses.append(loss.item())
        optimizer.step()
        return sum(losses) / TASKS

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
