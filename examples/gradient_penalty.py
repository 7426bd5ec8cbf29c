"""Train an LSTM critic with a gradient penalty (WGAN-GP, https://arxiv.org/abs/1704.00028): the loss contains the
gradient of the critic by its input, so training differentiates twice through the layer.

torch.nn.LSTM does this on the CPU; on a GPU it has to leave cuDNN, which has no second derivative. fastrnn.LSTM
computes the first gradient with its usual kernels.

The critic learns to tell sine waves from noise. The penalty holds the norm of its gradient, at points between the two,
near 1; the exit status is 1 if that did not get better.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
from torch import Tensor, nn

import fastrnn

STEPS_IN_TIME = 24
PENALTY_WEIGHT = 10.0  # as in the paper


class Critic(nn.Module):
    """(T, B, 1) -> (B,): high for what looks real."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.rnn = fastrnn.LSTM(1, hidden_size)
        self.head = nn.Linear(hidden_size, 1)

    def forward(self, wave: Tensor) -> Tensor:
        _, (hy, _) = self.rnn(wave)
        return self.head(hy[0]).squeeze(1)


def real_waves(batch: int) -> Tensor:
    """Sines of random phase and frequency, (T, B, 1)."""
    time = torch.linspace(0, 2 * math.pi, STEPS_IN_TIME).view(-1, 1, 1)
    return torch.sin((1 + 2 * torch.rand(1, batch, 1)) * time + 2 * math.pi * torch.rand(1, batch, 1))


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """How far the norm of the critic's gradient is from 1, halfway or so between a real and a fake wave."""
    mix = torch.rand(1, real.shape[1], 1)
    between = torch.lerp(real, fake, mix).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.norm(dim=(0, 2)) - 1).square().mean()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("--steps", type=int, default=300, help="(default: %(default)s)")
    option("--batch", type=int, default=32, help="(default: %(default)s)")
    option("--hidden-size", type=int, default=32, help="(default: %(default)s)")
    option("--lr", type=float, default=3e-3, help="Adam's learning rate (default: %(default)s)")
    option("--seed", type=int, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    for name in ("steps", "batch", "hidden_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.manual_seed(args.seed)
    critic = Critic(args.hidden_size)
    optimizer = torch.optim.Adam(critic.parameters(), lr=args.lr)
    penalties = []
    for step in range(args.steps):
        real, fake = real_waves(args.batch), torch.randn(STEPS_IN_TIME, args.batch, 1)
        distance = critic(real).mean() - critic(fake).mean()
        penalty = gradient_penalty(critic, real, fake)
        optimizer.zero_grad()
        (PENALTY_WEIGHT * penalty - distance).backward()
        optimizer.step()
        penalties.append(penalty.item())
        if step % max(1, args.steps // 10) == 0 or step == args.steps - 1:
            print(f"step {step:4}  distance {distance.item():7.3f}  penalty {penalty.item():.4f}")
    return 0 if penalties[-1] < penalties[0] or args.steps == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
