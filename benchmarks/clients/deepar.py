# /// script
# dependencies = ["gluonts[torch]==0.17.0"]
# ///
"""gluonts: DeepAR, which builds its LSTM itself and passes hx as a list."""

from __future__ import annotations

import tempfile

import numpy as np
import pandas as pd
from adopted import SEED, Impl, Train, main
from gluonts.dataset.pandas import PandasDataset
from gluonts.torch import DeepAREstimator
from lightning_losses import QUIET, Losses

SERIES, HOURS = 10, 600


def dataset() -> PandasDataset:
    """Noisy days of hours."""
    random = np.random.default_rng(SEED)
    hours = pd.date_range("2020-01-01", periods=HOURS, freq="h")
    waves = np.sin(2 * np.pi * np.arange(HOURS) / 24)
    return PandasDataset(
        {str(i): pd.Series(10 + i * waves + random.normal(size=HOURS), index=hours) for i in range(SERIES)}
    )


def prepare(impl: Impl) -> Train:
    losses = Losses()
    folder = tempfile.TemporaryDirectory()
    estimator = DeepAREstimator(
        freq="h",
        prediction_length=24,
        context_length=72,
        hidden_size=64,
        num_batches_per_epoch=30,
        trainer_kwargs={
            "max_epochs": 1,
            "callbacks": [losses],
            **QUIET,
            "enable_checkpointing": True,  # it reads the best one back
            "default_root_dir": folder.name,
        },
    )
    data = dataset()

    def train() -> list[float]:
        with folder, impl.patched():
            predictor = estimator.train(data)
            forecast = next(iter(predictor.predict(data, num_samples=20)))
        impl.check(predictor.prediction_net)
        assert np.isfinite(forecast.samples).all()
        return losses.values

    return train


if __name__ == "__main__":
    main(prepare)
