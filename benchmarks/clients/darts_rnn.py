# /// script
# dependencies = ["darts[torch]==0.48.1"]
# ///
"""darts: RNNModel and BlockRNNModel, forecasts with an LSTM step by step and a GRU in one block, on noisy waves."""

from __future__ import annotations

import tempfile

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
from adopted import SEED, Impl, Train, main
from darts import TimeSeries
from darts.models import BlockRNNModel, RNNModel
from darts.models.forecasting.torch_forecasting_model import TorchForecastingModel

STEPS, UPDATES = 1000, 20
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Losses(lightning.Callback):
    """Records the loss of each update."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.values.append(float(outputs["loss"]))


def series() -> TimeSeries:
    hours = pd.date_range("2020-01-01", periods=STEPS, freq="h")
    values = np.sin(2 * np.pi * np.arange(STEPS) / 24) + 0.2 * np.random.default_rng(SEED).normal(size=STEPS)
    return TimeSeries.from_times_and_values(hours, values.astype(np.float32))


def prepare(impl: Impl) -> Train:
    losses, data, folder = Losses(), series(), tempfile.TemporaryDirectory()
    settings = {
        "input_chunk_length": 96,
        "batch_size": 32,
        "random_state": SEED,
        "work_dir": folder.name,
        "pl_trainer_kwargs": {"accelerator": "cpu"},
    }
    models: list[TorchForecastingModel] = [
        RNNModel(model="LSTM", hidden_dim=64, n_rnn_layers=2, training_length=120, **settings),
        BlockRNNModel(model="GRU", hidden_dim=64, n_rnn_layers=2, output_chunk_length=24, **settings),
    ]

    def forecast(model: TorchForecastingModel) -> list[float]:
        """Of the model, and of what it becomes when it is saved and loaded."""
        trainer = lightning.Trainer(max_epochs=1, limit_train_batches=UPDATES, callbacks=[losses], **QUIET)
        model.fit(data, trainer=trainer)
        impl.check(model.model)
        path = f"{folder.name}/{type(model).__name__}.pt"
        model.save(path)
        loaded = type(model).load(path)
        impl.check(loaded.model)
        predicted = model.predict(30).values()
        assert np.array_equal(loaded.predict(30).values(), predicted)
        return [float(value) for value in predicted[::10, 0]]

    def train() -> list[float]:
        with folder, impl.patched():
            predicted = [value for model in models for value in forecast(model)]
        return losses.values + predicted

    return train


if __name__ == "__main__":
    main(prepare)
