# /// script
# dependencies = ["sktime==1.2.0"]
# ///
"""sktime: classifiers on a GRU and an LSTM-FCN, a regressor on an RNN, trained and copied, on noisy waves."""

from __future__ import annotations

import copy
import pickle

import numpy as np
from adopted import SEED, Impl, Train, main
from sktime.classification.deep_learning.gru import GRUClassifier
from sktime.classification.deep_learning.lstmfcn import LSTMFCNClassifierTorch
from sktime.regression.deep_learning.rnn import SimpleRNNRegressorTorch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.modules.module import register_module_forward_hook

SERIES, CHANNELS, STEPS = 256, 3, 100


def waves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sines and squares, which they are, and how fast."""
    random = np.random.default_rng(SEED)
    squares, speeds = random.integers(2, size=SERIES), random.uniform(1, 4, SERIES)
    values = np.sin(speeds[:, None, None] * np.arange(STEPS) / 10 + random.uniform(0, 6, (SERIES, CHANNELS, 1)))
    values = np.where(squares[:, None, None], np.sign(values), values) + 0.2 * random.normal(size=values.shape)
    return values.astype(np.float32), np.array(["sine", "square"])[squares], speeds.astype(np.float32)


def prepare(impl: Impl) -> Train:
    values, kinds, speeds = waves()
    settings = {"batch_size": 16, "num_epochs": 1, "optimizer": "Adam", "random_state": SEED}
    models = [
        (GRUClassifier(hidden_dim=96, n_layers=2, **settings), kinds),
        (LSTMFCNClassifierTorch(lstm_size=64, **settings), kinds),
        (SimpleRNNRegressorTorch(hidden_dim=64, n_layers=2, **settings), speeds),
    ]

    def train() -> list[float]:
        losses: list[float] = []

        def note(module: nn.Module, inputs: object, output: Tensor) -> None:
            if isinstance(module, _Loss):
                losses.append(float(output))

        with register_module_forward_hook(note), impl.patched():
            for model, wanted in models:
                model.fit(values, wanted)
        for model, _ in models:
            impl.check(model.network)
            predicted = model.predict(values[:8])
            for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                impl.check(copied.network)
                assert np.array_equal(copied.predict(values[:8]), predicted)
        return losses

    return train


if __name__ == "__main__":
    main(prepare)
