# /// script
# dependencies = ["rsl-rl-lib==5.5.1"]
# ///
"""rsl-rl: PPO of robots with recurrent actor and critic, states zeroed in place where episodes end, exported."""

from __future__ import annotations

import contextlib
import io
import tempfile

import torch
from adopted import Impl, Train, main
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

ENVIRONMENTS, SEEN, ACTIONS, STEPS, ITERATIONS = 64, 12, 4, 24, 4


class Positions(VecEnv):
    """Masses to be kept at 0 by forces; velocities are for the memory to find."""

    num_envs, num_actions, max_episode_length, device, cfg = ENVIRONMENTS, ACTIONS, 50, "cpu", {}

    def __init__(self) -> None:
        self.mixing = torch.randn(ACTIONS, SEEN) / ACTIONS**0.5
        self.episode_length_buf = torch.zeros(ENVIRONMENTS, dtype=torch.long)
        self.position, self.velocity = torch.randn(2, ENVIRONMENTS, ACTIONS)

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.position @ self.mixing}, batch_size=[ENVIRONMENTS])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        self.velocity = self.velocity + 0.1 * actions.clamp(-1, 1)
        self.position = self.position + 0.1 * self.velocity
        self.episode_length_buf = self.episode_length_buf + 1
        reward = -self.position.square().mean(1)
        late = self.episode_length_buf >= self.max_episode_length
        dones = late | (self.position.abs() > 3).any(1)
        self.episode_length_buf = self.episode_length_buf * ~dones
        self.position = torch.where(dones[:, None], torch.randn_like(self.position), self.position)
        self.velocity = torch.where(dones[:, None], torch.randn_like(self.velocity), self.velocity)
        return self.get_observations(), reward, dones.long(), {"time_outs": late}


def settings(rnn_type: str, **others: object) -> dict[str, object]:
    return {"class_name": "RNNModel", "hidden_dims": [128, 64], "rnn_type": rnn_type, "rnn_hidden_dim": 64, **others}


def prepare(impl: Impl) -> Train:
    configuration = {
        "algorithm": {"class_name": "PPO"},
        "actor": settings("lstm", distribution_cfg={"class_name": "GaussianDistribution", "init_std": 1.0}),
        "critic": settings("gru"),
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "num_steps_per_env": STEPS,
        "save_interval": ITERATIONS,
    }
    quiet = contextlib.redirect_stdout(io.StringIO())
    with impl.patched(), quiet:
        runner = OnPolicyRunner(Positions(), configuration)
    impl.check(runner.alg.actor)
    impl.check(runner.alg.critic)
    losses: list[float] = []
    log = runner.logger.log

    def record(**what: object) -> None:
        losses.extend(what["loss_dict"].values())
        log(**what)

    runner.logger.log = record

    def train() -> list[float]:
        with tempfile.TemporaryDirectory() as folder, quiet:
            runner.learn(ITERATIONS)
            runner.save(f"{folder}/model.pt")
            runner.load(f"{folder}/model.pt")
            runner.export_policy_to_jit(folder)
            policy = torch.jit.load(f"{folder}/policy.pt")
        return [*losses, *policy(torch.ones(1, SEEN)).flatten().tolist()]

    return train


if __name__ == "__main__":
    main(prepare)
