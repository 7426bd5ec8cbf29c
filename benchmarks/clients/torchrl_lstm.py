# /// script
# dependencies = ["torchrl==0.14.1"]
# ///
"""torchrl: LSTMModule, which asks whether its layer is an nn.LSTM, and packs trajectories that begin inside a batch."""

from __future__ import annotations

import torch
from adopted import Impl, Train, main
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import LSTMModule, set_recurrent_mode

BATCH, STEPS, FEATURES, HIDDEN_SIZE, UPDATES = 16, 64, 8, 64, 30


def prepare(impl: Impl) -> Train:
    with impl.patched():
        memory = LSTMModule(
            input_size=FEATURES,
            hidden_size=HIDDEN_SIZE,
            in_keys=["seen", "h", "c"],
            out_keys=["memory", ("next", "h"), ("next", "c")],
        )
    head = TensorDictModule(nn.Linear(HIDDEN_SIZE, FEATURES), in_keys=["memory"], out_keys=["guess"])
    policy = TensorDictSequential(memory, head)
    impl.check(policy)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)

    def rollout() -> TensorDict:
        """Walks that begin anew now and then."""
        begins = torch.rand(BATCH, STEPS, 1) < 0.05
        begins[:, 0] = True
        zeros = torch.zeros(BATCH, STEPS, 1, HIDDEN_SIZE)
        values = {"seen": torch.randn(BATCH, STEPS, FEATURES), "is_init": begins, "h": zeros, "c": zeros.clone()}
        return TensorDict(values, [BATCH, STEPS])

    def update() -> float:
        batch = rollout()
        wanted = batch["seen"].roll(1, 1) * ~batch["is_init"]  # what was seen the step before, of this walk
        loss = (policy(batch.clone())["guess"] - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        with impl.patched(), set_recurrent_mode(True):
            return [update() for _ in range(UPDATES)]

    return train


if __name__ == "__main__":
    main(prepare)
