# /// script
# dependencies = ["espnet==202301", "six==1.17.0", "typeguard==2.13.3", "inflect==7.0.0"]
# ///
"""espnet: CTC and attention, packed bidirectional LSTMs and a decoder of LSTMCells, hearing noisy patterns."""

from __future__ import annotations

import torch
from adopted import Impl, Train, main
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from torch import Tensor

BATCH, LENGTH, FEATURES, UNITS, UPDATES = 4, 10, 80, 128, 20
TOKENS = ["<blank>", "<unk>", *"abcdefghijklmnop", "<sos/eos>"]


def build() -> ESPnetASRModel:
    encoder = RNNEncoder(FEATURES, num_layers=3, hidden_size=UNITS, output_size=UNITS, subsample=(2, 2, 1))
    return ESPnetASRModel(
        vocab_size=len(TOKENS),
        token_list=TOKENS,
        frontend=None,
        specaug=None,
        normalize=None,
        preencoder=None,
        encoder=encoder,
        postencoder=None,
        decoder=RNNDecoder(len(TOKENS), UNITS, hidden_size=UNITS),
        ctc=CTC(len(TOKENS), UNITS),
        joint_network=None,
        report_cer=False,
        report_wer=False,
    )


def prepare(impl: Impl) -> Train:
    with impl.patched():
        model = build()
    impl.check(model)
    patterns = torch.randn(len(TOKENS), FEATURES)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95, eps=1e-8)

    def utterances() -> dict[str, Tensor]:
        """Ten frames of noise around each token's pattern, the longest first."""
        lengths = torch.arange(LENGTH, LENGTH - BATCH, -1)
        tokens = torch.randint(2, len(TOKENS) - 1, (BATCH, LENGTH))
        speech = patterns[tokens].repeat_interleave(10, 1)
        speech = speech + 0.3 * torch.randn_like(speech)
        tokens = tokens.masked_fill(torch.arange(LENGTH) >= lengths[:, None], -1)
        return {"speech": speech, "speech_lengths": 10 * lengths, "text": tokens, "text_lengths": lengths}

    def update() -> float:
        loss, _, _ = model(**utterances())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
