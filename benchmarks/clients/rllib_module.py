# /// script
# dependencies = ["ray[rllib]==2.60.0"]
# ///
"""ray rllib: PPO's module with an LSTM, initialised through all_weights, states batch first, saved and restored."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from gymnasium.spaces import Box, Discrete
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from torch import Tensor

GAMES, STEPS, SYMBOLS, UPDATES = 64, 20, 5, 12


def build() -> DefaultPPOTorchRLModule:
    settings = DefaultModelConfig(
        use_lstm=True,
        max_seq_len=STEPS,
        lstm_cell_size=128,
        lstm_kernel_initializer="orthogonal_",
        lstm_bias_initializer="zeros_",
        lstm_bias_initializer_kwargs={},
    )
    spaces = {"observation_space": Box(-np.inf, np.inf, (SYMBOLS,), np.float32), "action_space": Discrete(SYMBOLS)}
    return DefaultPPOTorchRLModule(**spaces, model_config=settings)


def prepare(impl: Impl) -> Train:
    with impl.patched():
        module = build()
        restored = build()
    impl.check(module)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    state = {name: value.expand(GAMES, *value.shape) for name, value in module.get_initial_state().items()}

    def update() -> float:
        """Name the symbol of two steps ago, in sequences that go on where the last ended."""
        nonlocal state
        symbols = torch.randint(SYMBOLS, (GAMES, STEPS))
        batch = {Columns.OBS: F.one_hot(symbols, SYMBOLS).float(), Columns.STATE_IN: state}
        given = module.forward_train(batch)
        guessed, wanted = given[Columns.ACTION_DIST_INPUTS][:, 2:], symbols[:, :-2]
        values: Tensor = module.compute_values(batch, embeddings=given[Columns.EMBEDDINGS])
        loss = F.cross_entropy(guessed.flatten(0, 1), wanted.flatten()) + values.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            state = module.forward_exploration(batch)[Columns.STATE_OUT]
        return loss.item()

    def train() -> list[float]:
        losses = [update() for _ in range(UPDATES)]
        with tempfile.TemporaryDirectory() as folder:
            module.save_to_path(folder)
            restored.restore_from_path(folder)
        batch = {Columns.OBS: torch.ones(GAMES, STEPS, SYMBOLS), Columns.STATE_IN: state}
        scores = restored.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
        return [*losses, *scores[0, -1].tolist()]

    return train


if __name__ == "__main__":
    main(prepare)
