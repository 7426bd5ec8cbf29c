# /// script
# dependencies = ["torchaudio==2.11.0"]
# ///
"""torchaudio: Tacotron2, a packed bidirectional LSTM and two LSTMCells with attention, speaking patterns of symbols."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from torch import Tensor
from torchaudio.models import Tacotron2

BATCH, SYMBOLS, LENGTH, FRAMES, MELS, UNITS, UPDATES = 8, 40, 16, 48, 80, 256, 8


def prepare(impl: Impl) -> Train:
    model = Tacotron2(
        n_symbol=SYMBOLS,
        n_mels=MELS,
        symbol_embedding_dim=UNITS,
        encoder_embedding_dim=UNITS,
        decoder_rnn_dim=UNITS,
        attention_rnn_dim=UNITS,
        prenet_dim=128,
        postnet_embedding_dim=128,
        decoder_max_step=20,
    )
    impl.convert(model)
    impl.check(model)
    sounds = torch.randn(SYMBOLS, MELS)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6)

    def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Symbols and the frames that they sound like, the longest first."""
        lengths = torch.randint(LENGTH // 2, LENGTH + 1, (BATCH,)).sort(descending=True).values
        lengths[0] = LENGTH
        symbols = torch.randint(1, SYMBOLS, (BATCH, LENGTH)) * (torch.arange(LENGTH) < lengths[:, None])
        frames = sounds[symbols].repeat_interleave(FRAMES // LENGTH, 1).transpose(1, 2)
        return symbols, lengths, frames, lengths * (FRAMES // LENGTH)

    def update() -> float:
        symbols, lengths, frames, frame_lengths = batch()
        before, after, gates, _ = model(symbols, lengths, frames, frame_lengths)
        ends = (torch.arange(FRAMES) >= frame_lengths[:, None] - 1).float()
        loss = F.mse_loss(before, frames) + F.mse_loss(after, frames)
        loss = loss + F.binary_cross_entropy_with_logits(gates, ends)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        losses = [update() for _ in range(UPDATES)]
        symbols, lengths, *_ = batch()
        spoken, _, _ = model.eval().infer(symbols, lengths)
        assert spoken.isfinite().all()
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
