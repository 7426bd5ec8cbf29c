# /// script
# dependencies = ["neuralforecast==3.3.0", "lightning==2.6.1"]
# ///
"""neuralforecast: LSTM with its recurrent decoder, which is a proj_size and states handed from call to call."""

from __future__ import annotations

import numpy as np
import pandas as pd
from adopted import SEED, Impl, Train, main
from lightning_losses import QUIET, Losses
from neuralforecast import NeuralForecast
from neuralforecast.models import LSTM

SERIES, STEPS = 10, 200


def table() -> pd.DataFrame:
    random = np.random.default_rng(SEED)
    steps = pd.date_range("2020-01-01", periods=STEPS, freq="D")
    series = [np.sin(np.arange(STEPS) / (2 + i)) + 0.1 * random.normal(size=STEPS) for i in range(SERIES)]
    return pd.DataFrame(
        {"unique_id": np.repeat(np.arange(SERIES), STEPS), "ds": np.tile(steps, SERIES), "y": np.concatenate(series)}
    )


def prepare(impl: Impl) -> Train:
    losses = Losses()
    model = LSTM(
        h=12,
        input_size=48,
        encoder_hidden_size=64,
        recurrent=True,
        max_steps=30,
        random_seed=SEED,
        callbacks=[losses],
        **QUIET,
    )
    impl.convert(model)
    impl.check(model)
    forecast = NeuralForecast([model], freq="D")
    data = table()

    def train() -> list[float]:
        forecast.fit(data)
        impl.check(forecast.models[0])
        predicted = forecast.predict()["LSTM"]
        assert np.isfinite(predicted).all()
        return [*losses.values, *map(float, predicted[:5])]

    return train


if __name__ == "__main__":
    main(prepare)
