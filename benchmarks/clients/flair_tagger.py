# /// script
# dependencies = ["flair==0.15.1"]
# ///
"""flair: SequenceTagger, a BiLSTM with a CRF over words and an LSTM of letters, on Python's documentation."""

from __future__ import annotations

import builtins
import keyword
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import torch
from adopted import Impl, Train, main
from flair.data import Dictionary, Sentence
from flair.embeddings import CharacterEmbeddings, OneHotEmbeddings, StackedEmbeddings
from flair.models import SequenceTagger

BATCH, UPDATES = 16, 20


def sentences() -> list[Sentence]:
    """Lines of it, with the names of Python's tagged: keywords, built-in types and functions, exceptions."""
    found = []
    for line in "\n".join(topics[name] for name in sorted(topics)).splitlines():
        sentence = Sentence(line.split(), use_tokenizer=False)
        if not 8 <= len(sentence) <= 40:
            continue
        for token in sentence:
            word = token.text.strip('"().,:')
            if keyword.iskeyword(word) or hasattr(builtins, word):
                token.add_label("name", "keyword" if keyword.iskeyword(word) else "builtin")
        found.append(sentence)
        if len(found) == BATCH * UPDATES:
            return found
    raise ValueError("too little text")


def dictionary(items: set[str], add_unk: bool) -> Dictionary:
    made = Dictionary(add_unk=add_unk)
    for item in sorted(items):
        made.add_item(item)
    return made


def prepare(impl: Impl) -> Train:
    text = sentences()
    words = {token.text for sentence in text for token in sentence}
    embeddings = [
        OneHotEmbeddings(dictionary(words, add_unk=True), embedding_length=100),
        CharacterEmbeddings(dictionary(set("".join(words)), add_unk=True)),
    ]
    tagger = SequenceTagger(
        StackedEmbeddings(embeddings),
        tag_dictionary=dictionary({"keyword", "builtin", "O"}, add_unk=False),
        tag_type="name",
        rnn_layers=1,
        hidden_size=256,
        train_initial_hidden_state=False,
    )
    impl.convert(tagger)
    impl.check(tagger)
    optimizer = torch.optim.Adam(tagger.parameters(), lr=3e-3)

    def update(batch: list[Sentence]) -> float:
        loss, count = tagger.forward_loss(batch)
        optimizer.zero_grad()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(tagger.parameters(), 5.0)
        optimizer.step()
        return loss.item() / count

    def train() -> list[float]:
        losses = [update(text[begin : begin + BATCH]) for begin in range(0, len(text), BATCH)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tagger.pt"
            tagger.save(path)
            with impl.patched():
                loaded = SequenceTagger.load(path)
        impl.check(loaded)
        with torch.no_grad():
            return [*losses, float(loaded.eval().forward_loss(text[:BATCH])[0])]

    return train


if __name__ == "__main__":
    main(prepare)
