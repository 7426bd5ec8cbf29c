# /// script
# dependencies = ["opacus==1.6.0"]
# ///
"""opacus: with differential privacy, from each sample's gradients, which module of Python a name comes from."""

from __future__ import annotations

import errno
import os
import signal
import socket
import ssl
import tokenize

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from opacus.data_loader import DPDataLoader
from opacus.grad_sample import GradSampleModuleExpandedWeights
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

MODULES, LENGTH, BATCH, HIDDEN_SIZE, EPOCHS = (errno, os, signal, socket, ssl, tokenize), 20, 64, 96, 1


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(128, 64)
        self.gru = nn.GRU(64, HIDDEN_SIZE, batch_first=True)
        self.head = nn.Linear(HIDDEN_SIZE, len(MODULES))

    def forward(self, names: Tensor) -> Tensor:
        return self.head(self.gru(self.embedding(names))[0].mean(1))


def dataset() -> TensorDataset:
    names = [(name, label) for label, module in enumerate(MODULES) for name in dir(module)]
    codes = [list(name.encode("ascii")[:LENGTH].ljust(LENGTH)) for name, _ in names]
    return TensorDataset(torch.tensor(codes), torch.tensor([label for _, label in names]))


def prepare(impl: Impl) -> Train:
    # ExpandedWeights, since opacus' other ways refuse torch.nn's layers.
    model = GradSampleModuleExpandedWeights(impl.convert(Classifier()))
    impl.check(model)
    optimizer = DPOptimizer(
        torch.optim.Adam(model.parameters(), lr=3e-3),
        noise_multiplier=0.5,
        max_grad_norm=1.0,
        expected_batch_size=BATCH,
    )
    loader = DPDataLoader.from_data_loader(DataLoader(dataset(), batch_size=BATCH))

    def update(names: Tensor, wanted: Tensor) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(names), wanted)
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update(*batch) for _ in range(EPOCHS) for batch in loader]


if __name__ == "__main__":
    main(prepare)
