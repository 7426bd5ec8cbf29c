# /// script
# dependencies = ["stanza==1.15.0"]
# ///
"""stanza: the tokenizer's network, bidirectional and packed, learning where sentences of Python's documentation end."""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from adopted import Impl, Train, main
from stanza.models.tokenization.model import Tokenizer

BATCH, LENGTH, UPDATES = 16, 120, 40


def prepare(impl: Impl) -> Train:
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    vocabulary = {character: i + 1 for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([vocabulary[character] for character in text])
    kinds = 1 + (ids == vocabulary["."]).long()  # a token; with the end of a sentence
    settings = {
        "rnn_layers": 2,
        "conv_res": None,
        "hier_invtemp": 0.5,
        "hierarchical": True,
        "use_mwt": False,
        "tok_noise": 0.0,
        "feat_dim": 1,
    }
    network = Tokenizer(settings, len(vocabulary) + 1, emb_dim=32, hidden_dim=64, dropout=0.1, feat_dropout=0.0)
    impl.convert(network)
    impl.check(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)

    def update() -> float:
        lengths = torch.randint(20, LENGTH + 1, (BATCH,)).sort(descending=True).values
        begins = torch.randint(len(ids) - LENGTH, (BATCH,)).tolist()
        windows = torch.stack([ids[begin : begin + LENGTH] for begin in begins])[:, : lengths[0]]
        wanted = torch.stack([kinds[begin : begin + LENGTH] for begin in begins])[:, : lengths[0]]
        capital = torch.zeros(*windows.shape, 1)
        scores = network(windows, capital, lengths)
        valid = torch.arange(int(lengths[0])) < lengths[:, None]
        loss = F.nll_loss(scores[valid], wanted[valid])  # the scores are logarithms
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
