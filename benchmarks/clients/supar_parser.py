# /// script
# dependencies = ["supar==1.1.4"]
# ///
"""SuPar: a biaffine dependency parser, LSTM cells on shrinking batches, an LSTM of letters, on made-up sentences."""

from __future__ import annotations

import torch
from adopted import Impl, Train, main
from supar.models.dep import BiaffineDependencyModel

WORDS, LETTERS, LETTERS_OF_A_WORD, KINDS = 200, 30, 8, 4
BATCH, LENGTH, UPDATES = 16, 20, 16
PADDING, BEGIN = 0, 2


def batch(spelling: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sentences of words of several kinds. A word hangs on the nearest before it that is of the first kind."""
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (BATCH,))
    steps = torch.arange(LENGTH)
    words = torch.randint(BEGIN + 1, WORDS, (BATCH, LENGTH))
    words[:, 0] = BEGIN
    kinds = words % KINDS
    heads = torch.where(kinds == 0, steps, 0).cummax(1).values.roll(1, 1)  # 0 where none is: the root
    inside = steps < lengths[:, None]
    words = torch.where(inside, words, PADDING)
    return {"words": words, "letters": spelling[words], "heads": heads, "kinds": kinds, "mask": inside & (steps > 0)}


def prepare(impl: Impl) -> Train:
    spelling = torch.randint(1, LETTERS, (WORDS, LETTERS_OF_A_WORD))
    spelling[torch.arange(LETTERS_OF_A_WORD) >= torch.randint(2, LETTERS_OF_A_WORD + 1, (WORDS, 1))] = PADDING
    spelling[PADDING] = PADDING
    parser = BiaffineDependencyModel(WORDS, KINDS, n_chars=LETTERS, n_lstm_hidden=200, n_lstm_layers=2)
    impl.convert(parser)
    impl.check(parser)
    optimizer = torch.optim.Adam(parser.parameters(), lr=2e-3, betas=(0.9, 0.9))

    def update() -> float:
        sentences = batch(spelling)
        arcs, relations = parser(sentences["words"], [sentences["letters"]])
        loss = parser.loss(arcs, relations, sentences["heads"], sentences["kinds"], sentences["mask"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parser.parameters(), 5.0)
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
