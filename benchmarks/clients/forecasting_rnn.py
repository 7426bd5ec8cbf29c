# /// script
# dependencies = ["pytorch-forecasting==1.8.0"]
# ///
"""pytorch-forecasting: its DeepAR, on a `class LSTM(RNN, nn.LSTM)` of its own over a mixin of nn.RNNBase."""

from __future__ import annotations

import lightning.pytorch as lightning
import numpy as np
import pandas as pd
from adopted import SEED, Impl, Train, main
from lightning_losses import QUIET, Losses

SERIES, STEPS = 20, 120


def table() -> pd.DataFrame:
    random = np.random.default_rng(SEED)
    steps = np.arange(STEPS)
    series = [np.sin(steps / (3 + i)) + 0.1 * random.normal(size=STEPS) for i in range(SERIES)]
    return pd.DataFrame(
        {
            "value": np.concatenate(series),
            "step": np.tile(steps, SERIES),
            "series": np.repeat(np.arange(SERIES), STEPS).astype(str),
        }
    )


def prepare(impl: Impl) -> Train:
    with impl.patched():  # its classes derive from what nn.LSTM is when it is imported
        from pytorch_forecasting import DeepAR, TimeSeriesDataSet
    dataset = TimeSeriesDataSet(
        table(),
        time_idx="step",
        target="value",
        group_ids=["series"],
        static_categoricals=["series"],
        time_varying_unknown_reals=["value"],
        max_encoder_length=60,
        min_encoder_length=20,
        max_prediction_length=20,
        randomize_length=True,
    )
    loader = dataset.to_dataloader(train=True, batch_size=64, num_workers=0)
    model = DeepAR.from_dataset(dataset, hidden_size=64, rnn_layers=2, dropout=0.1, learning_rate=1e-2)
    impl.check(model)
    losses = Losses()
    trainer = lightning.Trainer(
        max_epochs=1,
        limit_train_batches=25,
        callbacks=[losses],
        **QUIET,
    )

    def train() -> list[float]:
        trainer.fit(model, loader)
        return losses.values

    return train


if __name__ == "__main__":
    main(prepare)
