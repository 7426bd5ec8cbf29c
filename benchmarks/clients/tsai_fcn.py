# /// script
# dependencies = ["tsai==1.0.1", "torchvision==0.28.0"]
# ///
"""tsai: LSTM_FCNPlus and TSSequencerPlus, which reads patches by LSTMs, telling waves of three shapes apart."""

from __future__ import annotations

import tempfile
from functools import partial

import numpy as np
import torch
from adopted import SEED, Impl, Train, main
from fastai.callback.core import Callback
from fastai.data.transforms import Categorize
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from tsai.data.core import get_ts_dls
from tsai.learner import load_learner, ts_learner
from tsai.models.RNN_FCNPlus import LSTM_FCNPlus
from tsai.models.TSSequencerPlus import TSSequencerPlus

SERIES, CHANNELS, STEPS, BATCH = 352, 3, 96, 32


class Losses(Callback):
    """Records the loss of each update."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def after_batch(self) -> None:
        if self.training:
            self.values.append(self.learn.loss.item())


def waves() -> tuple[np.ndarray, np.ndarray]:
    """Noisy sines, squares and saws, and which they are."""
    random = np.random.default_rng(SEED)
    kinds = random.integers(3, size=SERIES)
    turns = np.arange(STEPS) / random.uniform(20, 40, (SERIES, CHANNELS, 1)) + random.random((SERIES, CHANNELS, 1))
    shapes = [np.sin(2 * np.pi * turns), np.sign(np.sin(2 * np.pi * turns)), 2 * (turns % 1) - 1]
    values = np.choose(kinds[:, None, None], shapes) + 0.3 * random.normal(size=(SERIES, CHANNELS, STEPS))
    return values.astype(np.float32), np.array(["sine", "square", "saw"])[kinds]


def prepare(impl: Impl) -> Train:
    values, kinds = waves()
    splits = (list(range(320)), list(range(320, SERIES)))
    losses, folder = Losses(), tempfile.TemporaryDirectory()

    def learner(arch: type[torch.nn.Module], **settings: object) -> Learner:
        dls = get_ts_dls(values, kinds, splits, tfms=[None, [Categorize()]], bs=BATCH, path=folder.name)
        settings |= {"opt_func": partial(OptimWrapper, opt=torch.optim.Adam), "path": folder.name}
        with impl.patched():
            learn = ts_learner(dls, arch, **settings)
        impl.convert(learn.model)  # its classes have bound theirs before the block
        impl.check(learn.model)
        return learn

    learners = [learner(LSTM_FCNPlus, rnn_layers=2), learner(TSSequencerPlus, d_model=64, depth=3)]

    def train() -> list[float]:
        scores = []
        with folder:
            for learn in learners:
                with learn.no_bar(), learn.no_logging():
                    learn.fit(1, 1e-3, cbs=losses)
                    learn.export("learner.pkl")
                loaded = load_learner(f"{folder.name}/learner.pkl")
                impl.check(loaded.model)
                scores += loaded.model.eval()(torch.from_numpy(values[:2])).flatten().tolist()
        return losses.values + scores

    return train


if __name__ == "__main__":
    main(prepare)
