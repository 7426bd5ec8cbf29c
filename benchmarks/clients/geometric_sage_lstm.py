# /// script
# dependencies = ["torch-geometric==2.8.1"]
# ///
"""torch-geometric: gated graph convolution, LSTMs that aggregate neighbours, layers and nodes, names bound before."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.datasets import FakeDataset
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GatedGraphConv, JumpingKnowledge, SAGEConv, Set2Set

GRAPHS, NODES, FEATURES, CHANNELS, CLASSES, EPOCHS = 96, 20, 32, 64, 10, 6


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gated = GatedGraphConv(CHANNELS, num_layers=3)
        self.sage = nn.ModuleList([SAGEConv(CHANNELS, CHANNELS, aggr="lstm") for _ in range(2)])
        self.jump = JumpingKnowledge("lstm", CHANNELS, num_layers=2)
        self.read = Set2Set(CHANNELS, processing_steps=3)
        self.head = nn.Linear(2 * CHANNELS, CLASSES)

    def forward(self, batch: Batch) -> Tensor:
        x, seen = self.gated(batch.x, batch.edge_index), []
        for layer in self.sage:
            x = layer(x, batch.edge_index).relu()
            seen.append(x)
        return self.head(self.read(self.jump(seen), batch.batch))


def prepare(impl: Impl) -> Train:
    graphs = FakeDataset(GRAPHS, NODES, avg_degree=6, num_channels=FEATURES, num_classes=CLASSES)
    graphs = [graph.sort(sort_by_row=False) for graph in graphs]
    with impl.patched("torch_geometric"):
        model = Network()
    impl.check(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)

    def update(batch: Batch) -> float:
        loss = F.cross_entropy(model(batch), batch.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def train() -> list[float]:
        loader = DataLoader(graphs, batch_size=32, shuffle=True)
        return [update(batch) for _ in range(EPOCHS) for batch in loader]

    return train


if __name__ == "__main__":
    main(prepare)
