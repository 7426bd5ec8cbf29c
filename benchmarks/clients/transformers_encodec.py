# /// script
# dependencies = ["transformers==5.24.0"]
# ///
"""transformers: EnCodec's encoder and decoder, two LSTM layers in each, loaded by from_pretrained, repeating tones."""

from __future__ import annotations

import math
import tempfile

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

BATCH, RATE, SAMPLES, UPDATES = 4, 24000, 12800, 10


def tones() -> Tensor:
    pitches = 200 + 400 * torch.rand(BATCH, 1, 1)
    return torch.sin(2 * math.pi * pitches * torch.arange(SAMPLES) / RATE)


def prepare(impl: Impl) -> Train:
    config = EncodecConfig(num_filters=8, hidden_size=64, sampling_rate=RATE, codebook_size=64, codebook_dim=64)
    with tempfile.TemporaryDirectory() as folder:
        EncodecModel(config).save_pretrained(folder)
        with impl.patched():
            model = EncodecModel.from_pretrained(folder)
    impl.check(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def update() -> float:
        sound = tones()
        loss = F.l1_loss(model.decoder(model.encoder(sound)), sound)  # around the codes, which pass no gradient
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        model.train()
        losses = [update() for _ in range(UPDATES)]
        assert model.eval()(tones()).audio_values.isfinite().all()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            again = impl.convert(EncodecModel.from_pretrained(folder))
        impl.check(again)
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
