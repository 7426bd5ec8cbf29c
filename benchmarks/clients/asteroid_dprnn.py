# /// script
# dependencies = ["asteroid==0.7.0", "torchaudio==2.11.0", "requests==2.32.5", "setuptools==80.9.0"]
# ///
"""asteroid: DPRNN-TasNet, bidirectional LSTMs along chunks and across them, separating two sines of changing pitch."""

from __future__ import annotations

import math

import torch
from adopted import Impl, Train, main
from asteroid.losses import PITLossWrapper, pairwise_neg_sisdr
from asteroid.models import BaseModel, DPRNNTasNet
from torch import Tensor

BATCH, RATE, SAMPLES, UPDATES = 2, 8000, 4000, 6


def voices() -> Tensor:
    """Of each mixture the two, B x 2 x samples."""
    pitches = 200 + 600 * torch.rand(BATCH, 2, 1)
    wander = torch.randn(BATCH, 2, SAMPLES).cumsum(-1)
    return torch.sin(2 * math.pi / RATE * (pitches * torch.arange(SAMPLES) + 10 * wander))


def prepare(impl: Impl) -> Train:
    with impl.patched():
        model = DPRNNTasNet(n_src=2, n_repeats=3, sample_rate=RATE)
    impl.check(model)
    loss_function = PITLossWrapper(pairwise_neg_sisdr, pit_from="pw_mtx")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def update() -> float:
        sources = voices()
        loss = loss_function(model(sources.sum(1)), sources)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        losses = [update() for _ in range(UPDATES)]
        with impl.patched():
            again = BaseModel.from_pretrained(model.serialize())
        impl.check(again)
        mixture = voices().sum(1)
        with torch.no_grad():
            assert torch.equal(again.eval()(mixture), model.eval()(mixture))
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
