# /// script
# dependencies = ["pypots==1.5"]
# ///
"""PyPOTS: BRITS, which steps LSTM cells forwards and backwards to fill gaps, on noisy waves."""

from __future__ import annotations

import numpy as np
import torch
from adopted import SEED, Impl, Train, main
from pypots.imputation import BRITS

SERIES, STEPS, FEATURES, BATCH = 256, 48, 8, 32


def waves() -> np.ndarray:
    """With a fifth of the values missing."""
    random = np.random.default_rng(SEED)
    turns = np.arange(STEPS)[:, None] / random.uniform(8, 24, (SERIES, 1, FEATURES)) + random.random((SERIES, 1, 1))
    values = np.sin(2 * np.pi * turns) + 0.1 * random.normal(size=turns.shape)
    values[random.random(values.shape) < 0.2] = np.nan
    return values.astype(np.float32)


def prepare(impl: Impl) -> Train:
    data = {"X": waves()}
    with impl.patched():
        imputer = BRITS(STEPS, FEATURES, rnn_hidden_size=128, batch_size=BATCH, epochs=2, device="cpu", verbose=False)
    impl.check(imputer.model)
    losses: list[float] = []

    def note(model: torch.nn.Module, inputs: object, results: dict[str, torch.Tensor]) -> None:
        if model.training:
            losses.append(float(results["loss"]))

    imputer.model.register_forward_hook(note)

    def train() -> list[float]:
        imputer.fit(data)
        filled = imputer.impute(data)
        assert np.isfinite(filled).all()
        return [*losses, *map(float, filled[0, :, 0][np.isnan(data["X"][0, :, 0])])]

    return train


if __name__ == "__main__":
    main(prepare)
