"""Reinforcement learning with a memory: recall a cue after a delay, where games begin inside the sequences.

A game shows one of four cues, then noise for some steps, then asks; the action that matches the cue wins 1. An LSTM
plays 32 games side by side and learns from 40 steps of each by advantage actor-critic (Mnih et al. 2016). When a game
is over the next one begins, in the midst of the sequence, and its player must not remember the one before. fastrnn
takes all of that in one call, `resets=`; torch.nn.LSTM is called step by step, its states set to zero in between, as
the RecurrentPPO of sb3-contrib does it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from pictures import plt, save
from running import Task, main
from torch import Tensor, nn

import fastrnn

CUES, DELAYS = 4, (2, 10)  # a game lasts a step for the cue, a delay, and a step for the answer
GAMES, STEPS = 32, 40
DISCOUNT = 0.9
VALUE_WEIGHT, ENTROPY_WEIGHT = 0.5, 0.01

State = tuple[Tensor, Tensor] | None


class Recall(gymnasium.Env):
    """Observations: the cue in the first step, noise, and whether an answer is due. Actions: the cues."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (CUES + 2,), np.float32)
    action_space = gymnasium.spaces.Discrete(CUES)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.cue = int(self.np_random.integers(CUES))
        self.left = 1 + int(self.np_random.integers(*DELAYS))  # steps until the answer is due
        observation = self.observation()
        observation[self.cue] = 1
        return observation, {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        over = self.left == 0
        reward = float(over and action == self.cue)
        self.left -= 1
        return self.observation(), reward, over, False, {}

    def observation(self) -> np.ndarray:
        observation = np.zeros(CUES + 2, np.float32)
        observation[-2] = self.np_random.normal()
        observation[-1] = self.left == 0
        return observation


class Player(nn.Module):
    """(T, B, features) in; logits of the actions (T, B, CUES), what the player expects to win (T, B), the states."""

    def __init__(self, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.lstm = lstm(CUES + 2, 64)
        self.actor = nn.Linear(64, CUES)
        self.critic = nn.Linear(64, 1)

    def forward(self, seen: Tensor, begins: Tensor, state: State = None) -> tuple[Tensor, Tensor, State]:
        if isinstance(self.lstm, fastrnn.LSTM):
            hidden, state = self.lstm(seen, state, resets=begins)
        else:
            hidden, state = self.step_by_step(seen, begins, state)
        return self.actor(hidden), self.critic(hidden).squeeze(-1), state

    def step_by_step(self, seen: Tensor, begins: Tensor, state: State) -> tuple[Tensor, State]:
        outputs = []
        for x, begin in zip(seen, begins, strict=True):
            if state is not None:
                state = (state[0].masked_fill(begin[:, None], 0), state[1].masked_fill(begin[:, None], 0))
            output, state = self.lstm(x[None], state)
            outputs.append(output)
        return torch.cat(outputs), state


class RecallTask(Task):
    """The task of this file."""

    name = "recall"
    steps = 500
    learning_rate = 5e-3
    figure = "right answers, as a share"
    least = 0.95

    def __init__(self) -> None:
        self.games = SyncVectorEnv([Recall] * GAMES, autoreset_mode=AutoresetMode.SAME_STEP)

    def build(self, package: ModuleType) -> nn.Module:
        return Player(package.LSTM)

    @torch.no_grad()
    def play(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """New games: what was seen (STEPS + 1, B, features), where games begin, the actions, what they won."""
        observation, _ = self.games.reset(seed=int(torch.randint(2**31, ())))
        begin, state = np.ones(GAMES, bool), None
        seen, begins, actions, rewards = [], [], [], []
        for _ in range(STEPS):
            seen.append(torch.from_numpy(observation.copy()))
            begins.append(torch.from_numpy(begin))
            logits, _, state = model(seen[-1][None], begins[-1][None], state)
            action = torch.multinomial(logits[0].softmax(-1), 1).squeeze(1)
            observation, reward, begin, _, _ = self.games.step(action.numpy())
            actions.append(action)
            rewards.append(torch.from_numpy(reward).float())
        seen.append(torch.from_numpy(observation.copy()))
        begins.append(torch.from_numpy(begin))
        return torch.stack(seen), torch.stack(begins), torch.stack(actions), torch.stack(rewards)

    def loss(self, model: nn.Module) -> Tensor:
        seen, begins, actions, rewards = self.play(model)
        logits, values, _ = model(seen, begins)
        logits, values, beyond = logits[:-1], values[:-1], values[-1].detach()
        returns = []
        for reward, over in zip(rewards.flip(0), begins[1:].flip(0), strict=True):
            beyond = reward + DISCOUNT * beyond.masked_fill(over, 0)
            returns.append(beyond)
        advantages = torch.stack(returns).flip(0) - values
        log_p = logits.log_softmax(-1)
        chosen = log_p.gather(-1, actions[..., None]).squeeze(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        policy = -(advantages.detach() * chosen).mean()
        return policy + VALUE_WEIGHT * advantages.square().mean() - ENTROPY_WEIGHT * entropy.mean()

    def measure(self, model: nn.Module) -> dict[str, float]:
        _, begins, _, rewards = self.play(model)
        return {self.figure: (rewards.sum() / begins[1:].sum()).item(), "of a guess": 1 / CUES}

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        """What the player would answer at each step of three sequences."""
        seen, begins, _, _ = self.play(model)
        likely = F.softmax(model(seen, begins)[0], -1)
        figure, rows = plt.subplots(3, 1, figsize=(8, 5), sharex=True)
        for i, axes in enumerate(rows):
            axes.imshow(likely[:-1, i].T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
            shown = seen[:-1, i, :CUES].nonzero()
            axes.plot(shown[:, 0], shown[:, 1], "o", color="tab:orange", label="cue")
            due = seen[:-1, i, -1].nonzero()[:, 0]
            axes.vlines(due, -0.5, CUES - 0.5, color="tab:red", label="answer due")
            axes.set(ylabel="action")
        rows[0].legend(loc="upper right", ncols=2)
        rows[-1].set(xlabel="step; the darker, the likelier")
        return save(figure, folder / "recall.png")


if __name__ == "__main__":
    sys.exit(main(RecallTask(), __doc__))
