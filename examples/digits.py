"""One to many: draw a digit row by row, given which one it shall be.

scikit-learn brings 1,797 handwritten digits of 8 by 8 pixels in 17 shades. An LSTM that knows the digit and the row
above gives, for each pixel of the next row, how likely every shade is; drawing lots row after row makes new digits. A
classifier of nearest neighbours, which knows the real digits alone, says how many it takes for what they shall be.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from pictures import plt, save
from running import Task, main
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

ROWS = COLUMNS = 8
SHADES = 17
BATCH = 64


class Drawer(nn.Module):
    """Digits (B,) and the rows above (T, B, columns) in, logits (T, B, columns, shades) out."""

    def __init__(self, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.digit = nn.Embedding(10, 32)
        self.lstm = lstm(32 + COLUMNS, 128)
        self.head = nn.Linear(128, COLUMNS * SHADES)

    def forward(
        self, digits: Tensor, above: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        known = self.digit(digits).expand(len(above), -1, -1)
        output, state = self.lstm(torch.cat([known, above / (SHADES - 1)], -1), state)
        return self.head(output).unflatten(-1, (COLUMNS, SHADES)), state

    def draw(self, digits: Tensor, temperature: float = 0.7) -> Tensor:
        """New pictures (B, rows, columns) of them."""
        row, state, rows = torch.zeros(1, len(digits), COLUMNS), None, []
        for _ in range(ROWS):
            logits, state = self(digits, row, state)
            chances = (logits[0] / temperature).softmax(-1).flatten(0, 1)
            row = torch.multinomial(chances, 1).view(1, -1, COLUMNS).float()
            rows.append(row[0])
        return torch.stack(rows, 1)


class Digits(Task):
    """The task of this file."""

    name = "digits"
    steps = 2000
    figure = "drawn digits that the classifier recognises"
    least = 0.85

    def __init__(self) -> None:
        data = load_digits()
        self.pictures = torch.tensor(data.images, dtype=torch.float32)
        self.digits = torch.tensor(data.target)
        self.classifier = KNeighborsClassifier(5).fit(data.data, data.target)

    def build(self, package: ModuleType) -> nn.Module:
        return Drawer(package.LSTM)

    def loss(self, model: nn.Module) -> Tensor:
        chosen = torch.randint(len(self.digits), (BATCH,))
        rows = self.pictures[chosen].transpose(0, 1)
        above = torch.cat([torch.zeros(1, BATCH, COLUMNS), rows[:-1]])
        logits, _ = model(self.digits[chosen], above)
        return F.cross_entropy(logits.flatten(0, 2), rows.flatten().long())

    def measure(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Drawer)
        digits = torch.arange(10).repeat(50)
        said = self.classifier.predict(model.draw(digits).flatten(1).numpy())
        return {self.figure: (torch.from_numpy(said) == digits).float().mean().item()}

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        assert isinstance(model, Drawer)
        each = 6
        drawn = model.draw(torch.arange(10).repeat_interleave(each)).view(10, each, ROWS, COLUMNS)
        figure, axes = plt.subplots(figsize=(8, 5))
        axes.imshow(drawn.permute(1, 2, 0, 3).reshape(each * ROWS, 10 * COLUMNS), cmap="gray_r")
        axes.set(xticks=[], yticks=[], title="drawn by the model")
        return save(figure, folder / "digits.png")


if __name__ == "__main__":
    sys.exit(main(Digits(), __doc__))
