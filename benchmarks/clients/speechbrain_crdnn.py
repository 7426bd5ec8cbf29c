# /// script
# dependencies = ["speechbrain==1.1.2", "torchaudio==2.11.0"]
# ///
"""speechbrain: CRDNN with four bidirectional LSTM layers, by its Brain, learning CTC of noisy patterns."""

from __future__ import annotations

import torch
from adopted import Impl, Train, main
from speechbrain import Brain, Stage, nnet
from speechbrain.lobes.models.CRDNN import CRDNN
from torch import Tensor

BATCH, FRAMES, FEATURES, UNITS, SYMBOLS, UPDATES = 4, 80, 40, 128, 12, 12
Batch = tuple[Tensor, Tensor]


def utterances(patterns: Tensor) -> Batch:
    """Ten frames of noise around each symbol's pattern; symbol 0 is CTC's blank."""
    symbols = torch.randint(1, SYMBOLS, (BATCH, FRAMES // 10))
    frames = patterns[symbols].repeat_interleave(10, 1)
    return frames + 0.3 * torch.randn_like(frames), symbols


class Recogniser(Brain):
    def compute_forward(self, batch: Batch, stage: Stage) -> Tensor:
        return self.modules.output(self.modules.encoder(batch[0])).log_softmax(-1)

    def compute_objectives(self, predictions: Tensor, batch: Batch, stage: Stage) -> Tensor:
        whole = torch.ones(BATCH)
        return nnet.losses.ctc_loss(predictions, batch[1], whole, whole, blank_index=0)


def prepare(impl: Impl) -> Train:
    patterns = torch.randn(SYMBOLS, FEATURES)
    encoder = CRDNN(
        input_size=FEATURES,
        rnn_class=nnet.RNN.LSTM,
        rnn_neurons=UNITS,
        rnn_re_init=True,
        cnn_channels=(16, 32),
        dnn_neurons=UNITS,
        dropout=0.0,  # it is that between the LSTM's layers, too
    )
    modules = {"encoder": encoder, "output": nnet.linear.Linear(input_size=UNITS, n_neurons=SYMBOLS)}
    brain = Recogniser(modules, lambda weights: torch.optim.Adam(weights, lr=1e-3))
    impl.convert(brain.modules)
    impl.check(brain.modules)
    brain.on_fit_start()
    return lambda: [float(brain.fit_batch(utterances(patterns))) for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
