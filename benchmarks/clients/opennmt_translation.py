# /// script
# dependencies = ["OpenNMT-py==2.3.0"]
# ///
"""OpenNMT-py: encoders and attentive decoders, of LSTM cells fed their own output and of GRUs, reversing sequences."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from onmt.decoders.decoder import InputFeedRNNDecoder, StdRNNDecoder
from onmt.encoders.rnn_encoder import RNNEncoder
from onmt.models import NMTModel
from onmt.modules import Embeddings
from torch.nn.utils.rnn import pad_sequence

SYMBOLS, HIDDEN_SIZE, BATCH, LENGTH, UPDATES = 30, 256, 32, 24, 8
PADDING, BEGIN, END = 0, 1, 2


def build(decoder: type[InputFeedRNNDecoder | StdRNNDecoder], rnn_type: str) -> NMTModel:
    embeddings = [Embeddings(128, SYMBOLS, PADDING) for _ in range(2)]
    return NMTModel(
        RNNEncoder(rnn_type, True, 2, HIDDEN_SIZE, embeddings=embeddings[0], use_bridge=True),
        decoder(rnn_type, True, 2, HIDDEN_SIZE, embeddings=embeddings[1]),
    )


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Padded sequences and the same reversed, as (steps, batch, 1), the longest first, and lengths."""
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (BATCH,)).sort(descending=True).values
    sources = [torch.randint(END + 1, SYMBOLS, (int(length),)) for length in lengths]
    targets = [torch.tensor([BEGIN, *source.flip(0), END]) for source in sources]
    return pad_sequence(sources)[..., None], pad_sequence(targets)[..., None], lengths


def prepare(impl: Impl) -> Train:
    models = [impl.convert(build(InputFeedRNNDecoder, "LSTM")), impl.convert(build(StdRNNDecoder, "GRU"))]
    for model in models:
        impl.check(model)

    def train_one(model: NMTModel) -> list[float]:
        generator = torch.nn.Linear(HIDDEN_SIZE, SYMBOLS)
        optimizer = torch.optim.Adam([*model.parameters(), *generator.parameters()], lr=2e-3)
        losses = []
        for _ in range(UPDATES):
            source, target, lengths = batch()
            outputs, _ = model(source, target, lengths)
            scores, wanted = generator(outputs), target[1:, :, 0]
            loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), ignore_index=PADDING)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.item())
        return losses

    return lambda: [loss for model in models for loss in train_one(model)]


if __name__ == "__main__":
    main(prepare)
