# /// script
# dependencies = ["sb3-contrib==2.9.2"]
# ///
"""sb3-contrib: RecurrentPPO on CartPole without velocities; it calls the LSTM step by step where episodes begin.

    recurrent_ppo.py --impl resets

is the same with a policy that gives `resets=` to the whole sequence in place of that loop.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from adopted import SEED, Impl, Train, main
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.logger import Logger

UPDATES, STEPS = 3, 512


class Positions(gymnasium.ObservationWrapper):
    """CartPole's positions: velocities are for the memory to find."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[[0, 2]]


class OneCall(RecurrentActorCriticPolicy):
    """Reads a sequence in one call, whatever begins inside it."""

    @staticmethod
    def _process_sequence(features, lstm_states, episode_starts, lstm):
        sequences = lstm_states[0].shape[1]
        input = features.reshape(sequences, -1, lstm.input_size).swapaxes(0, 1)
        begins = episode_starts.reshape(sequences, -1).swapaxes(0, 1).bool()
        output, states = lstm(input, lstm_states, resets=begins)
        return output.transpose(0, 1).flatten(0, 1), states


def build(impl: Impl) -> RecurrentPPO:
    policy = OneCall if impl.name == "resets" else "MlpLstmPolicy"
    model = RecurrentPPO(policy, Positions(), n_steps=STEPS, seed=SEED)
    impl.convert(model.policy)
    impl.check(model.policy)
    return model


def learn(model: RecurrentPPO) -> list[float]:
    """The losses of each update."""
    losses: list[float] = []

    class Recorder(Logger):
        def record(self, key: str, value: object, *args: object, **kwargs: object) -> None:
            if key in ("train/value_loss", "train/policy_gradient_loss"):
                losses.append(float(value))

    model.set_logger(Recorder(None, []))
    model.learn(UPDATES * STEPS)
    return losses


def prepare(impl: Impl) -> Train:
    torch.set_num_threads(1)  # a step of one environment has no work for two
    model = build(impl)
    return lambda: learn(model)


if __name__ == "__main__":
    main(prepare, ("torch", "fastrnn", "resets"))
