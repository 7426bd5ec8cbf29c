# /// script
# dependencies = ["demucs==4.1.0"]
# ///
"""demucs: Demucs with bidirectional LSTMs inside its residual branches, separating tones from noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from demucs.apply import apply_model
from demucs.demucs import Demucs
from demucs.states import copy_state, swap_state
from torch import Tensor

BATCH, RATE, SAMPLES, UPDATES = 2, 8000, 16000, 8


def stems() -> Tensor:
    """B x tones and noise x channels x samples."""
    pitches = 100 + 400 * torch.rand(BATCH, 2, 1)
    tones = torch.sin(2 * math.pi * pitches * torch.arange(SAMPLES) / RATE)
    return torch.stack([tones, 0.3 * torch.randn_like(tones)], 1)


def prepare(impl: Impl) -> Train:
    model = Demucs(
        ["tones", "noise"], channels=8, depth=4, norm_starts=2, dconv_lstm=2, lstm_layers=2, samplerate=RATE, segment=2
    )
    impl.convert(model)
    impl.check(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = copy_state(model.state_dict())

    def update() -> float:
        sources = stems()
        loss = F.l1_loss(model(sources.sum(1)), sources)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        losses = [update() for _ in range(UPDATES)]
        mixture = stems().sum(1)
        separated = apply_model(model, mixture, shifts=0)  # by a copy in pieces
        with swap_state(model, first):
            assert not torch.equal(apply_model(model, mixture, shifts=0), separated)
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
