"""Many to many with a delay: translate numbers into words and back.

num2words writes 4711 as "four thousand, seven hundred and eleven". One encoder-decoder learns both ways: the encoder,
a GRU, reads the whole source, ">4711" or "<four thousand, ...", as packed letters. Its last state starts the decoder,
which sees it at every step, too (Cho et al., arXiv:1406.1078), and writes the translation letter by letter. One counts
if every letter of it is right. The numbers it is measured on, a tenth of those below 10,000, were in no batch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from num2words import num2words
from running import Task, main
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

NUMBERS = 10_000
BATCH = 128
HIDDEN = 160
PADDING, END = 0, 1
ALPHABET = "  " + "<>" + "0123456789" + "abcdefghijklmnopqrstuvwxyz ,-"  # the first two stand for PADDING and END
INDEX = {letter: index for index, letter in enumerate(ALPHABET) if index > END}


def encode(text: str) -> Tensor:
    """The letters' indices, and END."""
    return torch.tensor([*(INDEX[letter] for letter in text), END])


def decode(letters: list[int]) -> str:
    return "".join(ALPHABET[letter] for letter in letters)


class Translator(nn.Module):
    """Source in, the logits of the target's letters out."""

    def __init__(self, gru: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32, padding_idx=PADDING)
        self.encoder = gru(32, HIDDEN)
        self.decoder = gru(32 + HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, len(ALPHABET))

    def encode(self, sources: list[Tensor]) -> Tensor:
        """The state after the last letter of each source."""
        lengths = torch.tensor([len(source) for source in sources])
        packed = pack_padded_sequence(self.embedding(pad_sequence(sources)), lengths, enforce_sorted=False)
        return self.encoder(packed)[1]

    def forward(self, sources: list[Tensor], before: Tensor) -> Tensor:
        """Logits (T, B, letters), given each letter's predecessor in the target."""
        context = self.encode(sources)
        return self.head(self.decode(before, context, context)[0])

    def decode(self, letters: Tensor, context: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The decoder's outputs and last state, given letters (T, B)."""
        seen = torch.cat([self.embedding(letters), context.expand(len(letters), -1, -1)], -1)
        return self.decoder(seen, state)

    def translate(self, sources: list[Tensor], longest: int) -> list[str]:
        """The likeliest letter at every step."""
        context = state = self.encode(sources)
        letter = torch.full((1, len(sources)), END)
        written = []
        for _ in range(longest):
            output, state = self.decode(letter, context, state)
            letter = self.head(output).argmax(-1)
            written.append(letter[0])
        rows = torch.stack(written, 1).tolist()
        return [decode(row[: row.index(END)] if END in row else row) for row in rows]


class NumbersInWords(Task):
    """The task of this file."""

    name = "numbers_in_words"
    steps = 1300
    learning_rate = 3e-3
    figure = "translated without a mistake, of held-out numbers"
    least = 0.9

    def __init__(self) -> None:
        words = [num2words(number) for number in range(NUMBERS)]
        pairs = [(f">{number}", word) for number, word in enumerate(words)]
        pairs += [(f"<{word}", str(number)) for number, word in enumerate(words)]
        order = torch.randperm(NUMBERS, generator=torch.Generator().manual_seed(0))
        held_out = set(order[: NUMBERS // 10].tolist())
        self.known = [pair for row, pair in enumerate(pairs) if row % NUMBERS not in held_out]
        self.held_out = [pair for row, pair in enumerate(pairs) if row % NUMBERS in held_out]
        self.sources, self.targets = ([encode(pair[side]) for pair in self.known] for side in (0, 1))

    def build(self, package: ModuleType) -> nn.Module:
        return Translator(package.GRU)

    def loss(self, model: nn.Module) -> Tensor:
        rows = torch.randint(len(self.known), (BATCH,)).tolist()
        target = pad_sequence([self.targets[row] for row in rows])
        before = torch.cat([torch.full((1, BATCH), END), target[:-1]])
        logits = model([self.sources[row] for row in rows], before)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PADDING)

    def measure(self, model: nn.Module) -> dict[str, float]:
        assert isinstance(model, Translator)
        longest = max(len(target) for _, target in self.held_out) + 1
        written = model.translate([encode(source) for source, _ in self.held_out], longest)
        right = [ours == target for ours, (_, target) in zip(written, self.held_out, strict=True)]
        half = len(right) // 2
        return {
            "into words": sum(right[:half]) / half,
            "into digits": sum(right[half:]) / half,
            self.figure: sum(right) / len(right),
        }

    def show(self, model: nn.Module, folder: Path) -> list[Path]:
        assert isinstance(model, Translator)
        chosen = [self.held_out[row][0] for row in range(7, len(self.held_out), len(self.held_out) // 6)]
        for source, target in zip(chosen, model.translate([encode(text) for text in chosen], 60), strict=True):
            print(f"  {source} -> {target}")
        return []


if __name__ == "__main__":
    sys.exit(main(NumbersInWords(), __doc__))
