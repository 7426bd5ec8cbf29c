# /// script
# dependencies = ["pytorch-widedeep==1.7.0"]
# ///
"""pytorch-widedeep: attentive RNNs over words and tables, "rnn should be either nn.LSTM or nn.GRU", by its trainer."""

from __future__ import annotations

from pydoc_data.topics import topics

import numpy as np
from adopted import SEED, Impl, Train, main
from pytorch_widedeep import Trainer
from pytorch_widedeep.callbacks import Callback
from pytorch_widedeep.models import BasicRNN, StackedAttentiveRNN, TabMlp, WideDeep

WORDS, LENGTH, COLUMNS, BATCH, EPOCHS = 500, 40, 4, 64, 1


def windows() -> tuple[np.ndarray, np.ndarray]:
    """Of Python's documentation, and which come from the second half."""
    words = " ".join(topics[name] for name in sorted(topics)).split()
    kinds, counts = np.unique(words, return_counts=True)
    ids = {str(kinds[i]): 2 + rank for rank, i in enumerate(np.argsort(-counts, kind="stable")[: WORDS - 2])}
    codes = np.array([ids.get(word, 0) for word in words][: 24 * BATCH * LENGTH]).reshape(-1, LENGTH)
    return codes, (np.arange(len(codes)) >= len(codes) // 2).astype(np.float32)


class Losses(Callback):
    """The mean loss of the epoch up to each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_batch_end(self, batch: int, logs: dict | None = None, metric: object = None) -> None:
        self.values.append(self.trainer.train_running_loss / (batch + 1))


def prepare(impl: Impl) -> Train:
    codes, wanted = windows()
    table = np.random.default_rng(SEED).normal(size=(len(codes), COLUMNS)).astype(np.float32)
    names = [f"x{i}" for i in range(COLUMNS)]
    settings = {"vocab_size": WORDS, "embed_dim": 32, "bidirectional": True}
    model = WideDeep(
        deeptabular=TabMlp({name: i for i, name in enumerate(names)}, continuous_cols=names),
        deeptext=[
            StackedAttentiveRNN(**settings, hidden_dim=48, n_blocks=2, rnn_type="lstm"),
            BasicRNN(**settings, hidden_dim=48, n_layers=2, rnn_type="gru", rnn_dropout=0.0),
        ],
    )
    impl.convert(model)
    impl.check(model)
    losses = Losses()
    trainer = Trainer(model, objective="binary", callbacks=[losses], verbose=0, seed=SEED)

    def train() -> list[float]:
        trainer.fit(X_tab=table, X_text=[codes, codes], target=wanted, n_epochs=EPOCHS, batch_size=BATCH)
        predicted = trainer.predict_proba(X_tab=table[:BATCH], X_text=[codes[:BATCH], codes[:BATCH]])
        return [*losses.values, *map(float, predicted[:5, 1])]

    return train


if __name__ == "__main__":
    main(prepare)
