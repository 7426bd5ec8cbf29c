# /// script
# dependencies = ["openunmix==1.3.0", "torchaudio==2.11.0"]
# ///
"""Open-Unmix: the network that finds one source in a mixture's spectrogram, on notes and noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main

RATE, SAMPLES, BATCH, UPDATES, BINS = 16000, 32000, 4, 12, 513


def tracks() -> tuple[torch.Tensor, torch.Tensor]:
    """Notes that decay, in stereo, and the same among noise."""
    times = torch.arange(SAMPLES) / RATE
    pitches = 220 * 2 ** (torch.randint(24, (BATCH, 1, 4)) / 12)
    notes = torch.sin(2 * math.pi * pitches[..., None] * (times % 0.5)) * torch.exp(-4 * (times % 0.5))
    source = notes.mean(2) * torch.rand(BATCH, 2, 1)
    return source, source + 0.1 * torch.randn(BATCH, 2, SAMPLES)


def prepare(impl: Impl) -> Train:
    with impl.patched():
        from openunmix.model import OpenUnmix  # which binds torch.nn's LSTM when it is imported
        from openunmix.transforms import ComplexNorm, TorchSTFT

        network = OpenUnmix(nb_bins=BINS, nb_channels=2, hidden_size=256, nb_layers=3, max_bin=400)
    network.lstm.dropout = 0.0  # each draws other masks
    impl.check(network)
    spectrograms = torch.nn.Sequential(TorchSTFT(n_fft=2 * (BINS - 1), n_hop=256), ComplexNorm(mono=False))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def update() -> float:
        wanted, mixture = map(spectrograms, tracks())
        loss = F.mse_loss(network(mixture), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
