# /// script
# dependencies = ["tianshou==2.0.1"]
# ///
"""tianshou: DRQN on CartPole without velocities, a target network and stacks of frames from the replay buffer."""

from __future__ import annotations

import gymnasium
import numpy as np
from adopted import SEED, Impl, Train, main
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.utils.net.common import Recurrent
from tianshou.utils.torch_utils import policy_within_training_step

GAMES, FRAMES, UPDATES, BATCH = 8, 16, 30, 64


class Positions(gymnasium.ObservationWrapper):
    """CartPole's positions: velocities are for the memory to find."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


def prepare(impl: Impl) -> Train:
    games = DummyVectorEnv([Positions] * GAMES)
    games.seed(SEED)
    network = Recurrent(layer_num=2, state_shape=(2,), action_shape=2)
    impl.convert(network)
    policy = DiscreteQLearningPolicy(
        model=network, action_space=games.action_space[0], eps_training=0.1, eps_inference=0.0
    )
    policy.action_space.seed(SEED)
    algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), n_step_return_horizon=3, target_update_freq=10)
    impl.check(algorithm)  # its target network, too
    memory = VectorReplayBuffer(4000, GAMES, stack_num=FRAMES, ignore_obs_next=True)
    collector = Collector(algorithm, games, memory, exploration_noise=True)

    def update() -> float:
        collector.collect(n_step=GAMES * 4)
        return algorithm.update(memory, BATCH).loss

    def train() -> list[float]:
        collector.reset()
        collector.collect(n_step=GAMES * 32)
        with policy_within_training_step(policy):
            return [update() for _ in range(UPDATES)]

    return train


if __name__ == "__main__":
    main(prepare)
