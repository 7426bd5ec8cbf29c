# /// script
# dependencies = ["fastai==2.8.12"]
# ///
"""fastai: AWD-LSTM, whose WeightDropout writes recurrent weights at every call, on words of Python's documentation."""

from __future__ import annotations

import tempfile
from functools import partial
from pydoc_data.topics import topics

import torch
from adopted import Impl, Train, main
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from fastai.text.data import LMDataLoader
from fastai.text.learner import TextLearner
from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_lm_config, awd_lstm_lm_split
from fastai.text.models.core import get_language_model

BATCH, LENGTH, UPDATES = 16, 50, 14


class Losses(Callback):
    """Records the loss of each batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_batch(self) -> None:
        self.values.append(self.learn.loss.item())


def loader() -> tuple[LMDataLoader, int]:
    """Windows of consecutive words, which the states are kept between, and how many words there are."""
    words = " ".join(topics[name] for name in sorted(topics)).split()[: BATCH * LENGTH * UPDATES + 1]
    vocabulary = {word: i + 2 for i, word in enumerate(sorted(set(words)))}  # 1 is the padding
    text = torch.tensor([vocabulary[word] for word in words])
    return LMDataLoader([text], bs=BATCH, seq_len=LENGTH), len(vocabulary) + 2


def prepare(impl: Impl) -> Train:
    batches, words = loader()
    config = {**awd_lstm_lm_config, "emb_sz": 200, "n_hid": 400}
    model = impl.convert(get_language_model(AWD_LSTM, words, config))
    impl.check(model)
    losses, folder = Losses(), tempfile.TemporaryDirectory()
    learner = TextLearner(
        DataLoaders(batches, batches),
        model,
        loss_func=CrossEntropyLossFlat(),
        opt_func=partial(OptimWrapper, opt=torch.optim.Adam),
        splitter=awd_lstm_lm_split,
        cbs=losses,
        path=folder.name,
    )

    def train() -> list[float]:
        with folder, learner.no_bar(), learner.no_logging():
            learner.fit(1, 2e-3)  # and then validates, on the same words
            learner.save("trained")
            learner.load("trained")
        return losses.values

    return train


if __name__ == "__main__":
    main(prepare)
