# /// script
# dependencies = ["pfrl==0.4.0", "packaging"]
# ///
"""pfrl: DRQN, a RecurrentSequential that asks which of its layers recur and packs episodes, on a game of recall."""

from __future__ import annotations

import random
import tempfile

import numpy as np
import pfrl
import torch
from adopted import Impl, Train, main
from torch import nn

SYMBOLS, EPISODES, STEPS, HIDDEN_SIZE = 4, 32, 1250, 64


class Recall:
    """Shows a symbol, then noise; the last action should name it. Episodes differ in length."""

    def reset(self) -> np.ndarray:
        self.symbol, self.left = random.randrange(SYMBOLS), random.randint(5, 40)
        seen = np.zeros(SYMBOLS + 1, np.float32)
        seen[self.symbol] = 1
        return seen

    def step(self, action: int) -> tuple[np.ndarray, float, bool, dict[str, bool]]:
        self.left -= 1
        seen = np.random.normal(size=SYMBOLS + 1).astype(np.float32)
        return seen, float(self.left == 0 and action == self.symbol), self.left == 0, {}


def prepare(impl: Impl) -> Train:
    network = pfrl.nn.RecurrentSequential(
        nn.Linear(SYMBOLS + 1, 64),
        nn.ReLU(),
        nn.LSTM(64, HIDDEN_SIZE, 2),
        nn.GRU(HIDDEN_SIZE, HIDDEN_SIZE),
        nn.Linear(HIDDEN_SIZE, SYMBOLS),
        pfrl.q_functions.DiscreteActionValueHead(),
    )
    impl.convert(network)
    agent = pfrl.agents.DoubleDQN(
        network,
        torch.optim.Adam(network.parameters()),
        pfrl.replay_buffers.EpisodicReplayBuffer(10_000),
        gamma=0.99,
        explorer=pfrl.explorers.LinearDecayEpsilonGreedy(1.0, 0.1, 1000, lambda: random.randrange(SYMBOLS)),
        replay_start_size=EPISODES,
        minibatch_size=EPISODES,
        update_interval=50,
        target_update_interval=250,
        recurrent=True,
    )
    impl.check(agent.target_model)  # a deep copy

    def train() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            pfrl.experiments.train_agent(agent, Recall(), STEPS, folder)
            agent.load(f"{folder}/{STEPS}_finish")
        impl.check(agent.model)
        return list(agent.loss_record)

    return train


if __name__ == "__main__":
    main(prepare)
