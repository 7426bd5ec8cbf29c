"""Many to one: how a word sounds to people, from its spelling alone.

The lexicon of vaderSentiment holds some 7,200 English words, each rated by ten people from -4 (worst) to 4 (best). A
bidirectional LSTM reads the letters of a word, packed, and its last states in both directions give the rating. A tenth
of the words is held out; a model that always says the mean is right about the sign for 55 in 100 of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
import vaderSentiment
from pictures import plt, save
from running import Task, main
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
BATCH = 64


class Words(NamedTuple):
    """(N, longest) letters from 1 on, 0 behind the end; (N,) lengths; (N,) ratings."""

    letters: Tensor
    lengths: Tensor
    ratings: Tensor

    def take(self, rows: Tensor) -> Words:
        return Words(*(tensor[rows] for tensor in self))


def read_lexicon() -> tuple[list[str], Words]:
    """The words of plain letters, and what is known of them."""
    file = Path(vaderSentiment.__file__).parent / "vader_lexicon.txt"
    rows = [line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if set(row[0]) <= set(ALPHABET)]
    letters = [torch.tensor([ALPHABET.index(letter) + 1 for letter in word]) for word, *_ in rows]
    padded = nn.utils.rnn.pad_sequence(letters, batch_first=True)
    lengths = torch.tensor([len(word) for word in letters])
    return [row[0] for row in rows], Words(padded, lengths, torch.tensor([float(row[1]) for row in rows]))


class SpellingModel(nn.Module):
    """Letters in, a rating out."""

    def __init__(self, lstm: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET) + 1, 32, padding_idx=0)
        self.lstm = lstm(32, 96, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * 96, 1))

    def forward(self, words: Words) -> Tensor:
        packed = pack_padded_sequence(
            self.embedding(words.letters), words.lengths, batch_first=True, enforce_sorted=False
        )
        _, (hy, _) = self.lstm(packed)
        return self.head(hy.transpose(0, 1).flatten(1)).squeeze(1)


class Sentiment(Task):
    """The task of this file."""

    name = "sentiment"
    steps = 2000
    figure = "right about the sign, of held-out words"
    least = 0.8

    def __init__(self) -> None:
        self.words, lexicon = read_lexicon()
        order = torch.randperm(len(self.words), generator=torch.Generator().manual_seed(0))
        self.held_out_rows = order[: len(order) // 10]
        self.held_out, self.known = lexicon.take(self.held_out_rows), lexicon.take(order[len(order) // 10 :])

    def build(self, package: ModuleType) -> nn.Module:
        return SpellingModel(package.LSTM)

    def loss(self, model: nn.Module) -> Tensor:
        words = self.known.take(torch.randint(len(self.known.ratings), (BATCH,)))
        return F.mse_loss(model(words), words.ratings)

    def measure(self, model: nn.Module) -> dict[str, float]:
        said, rated = model(self.held_out), self.held_out.ratings
        correlation = torch.corrcoef(torch.stack([said, rated]))[0, 1].item()
        return {self.figure: ((said > 0) == (rated > 0)).float().mean().item(), "correlation": correlation}

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        said = model(self.held_out)
        for row in said.argsort()[torch.linspace(0, len(said) - 1, 8).long()].tolist():
            word = self.words[int(self.held_out_rows[row])]
            print(f"  {word:20} people {self.held_out.ratings[row]:+.1f}, model {said[row]:+.1f}")
        figure, axes = plt.subplots(figsize=(5, 5))
        axes.scatter(self.held_out.ratings, said, s=8, alpha=0.5)
        axes.set(xlabel="people", ylabel="model", title="held-out words, -4 worst to 4 best")
        return save(figure, folder / "sentiment.png")


if __name__ == "__main__":
    sys.exit(main(Sentiment(), __doc__))
