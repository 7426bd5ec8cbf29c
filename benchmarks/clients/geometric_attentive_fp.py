# /// script
# dependencies = ["torch-geometric==2.8.1"]
# ///
"""torch-geometric: AttentiveFP, GRU cells whose outputs it rectifies in place, on made-up molecules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch_geometric
from adopted import Impl, Train, main
from torch_geometric.datasets import FakeDataset
from torch_geometric.loader import DataLoader

MOLECULES, ATOMS, UPDATES = 200, 25, 40


def prepare(impl: Impl) -> Train:
    molecules = FakeDataset(MOLECULES, ATOMS, avg_degree=3, num_channels=39, edge_dim=10, task="graph")
    settings = {"out_channels": 1, "edge_dim": 10, "num_layers": 3, "num_timesteps": 3}
    model = torch_geometric.nn.AttentiveFP(39, 128, **settings)
    impl.convert(model)
    assert all(isinstance(cell, torch.nn.GRUCell) for cell in (model.gru, *model.atom_grus, model.mol_gru))
    model.reset_parameters()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def update(batch: torch_geometric.data.Batch) -> float:
        guessed = model(batch.x / 10, batch.edge_index, batch.edge_attr, batch.batch)[:, 0]
        loss = F.mse_loss(guessed, batch.y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        loader = DataLoader(molecules, batch_size=20, shuffle=True)
        return [update(batch) for _ in range(UPDATES // len(loader)) for batch in loader]

    return train


if __name__ == "__main__":
    main(prepare)
