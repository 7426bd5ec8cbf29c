"""The two examples of the well-known RNN tutorials, to the digit and to the letter."""

import pytest
import torch
from torch import nn

import fastrnn

SENTENCES = ("hey how are you", "good i am fine", "have a nice day")
# The example's weights are random; torch.nn completes the sentence from each of these seeds.
SEEDS = (0, 1, 2)


def test_hand_computation():
    torch.manual_seed(1)
    rnn = fastrnn.RNN(5, 2, 1, batch_first=True)
    rows = torch.tensor([[1.0] * 5, [2.0] * 5, [3.0] * 5])
    output, hy = rnn(rows.unsqueeze(0))
    expected = torch.tensor([[-0.3519801, 0.52525216], [-0.68424344, 0.76074266], [-0.8649416, 0.9046636]])
    # Printed with 7 or 8 digits: an ulp or so of values below 1.
    torch.testing.assert_close(output[0], expected, rtol=0, atol=2e-7)
    torch.testing.assert_close(hy[0, 0], expected[-1], rtol=0, atol=2e-7)

    # The same by hand.
    h = torch.zeros(2)
    for row, result in zip(rows, output[0], strict=True):
        h = torch.tanh(rnn.weight_ih_l0 @ row + rnn.bias_ih_l0 + rnn.weight_hh_l0 @ h + rnn.bias_hh_l0)
        torch.testing.assert_close(result, h)


class CharModel(nn.Module):
    def __init__(self, space, size, hidden):
        super().__init__()
        self.rnn = space.RNN(size, hidden, 1, batch_first=True)
        self.fc = nn.Linear(hidden, size)

    def forward(self, x):
        output, _ = self.rnn(x, torch.zeros(1, x.size(0), self.rnn.hidden_size))
        return self.fc(output.reshape(-1, self.rnn.hidden_size))


def complete(space, start, seed):
    """Train on the three sentences, then write from `start` to their common length."""
    letters = sorted(set("".join(SENTENCES)))
    length = max(map(len, SENTENCES))
    codes = torch.tensor([[letters.index(c) for c in s.ljust(length)] for s in SENTENCES])
    value = nn.functional.one_hot(codes[:, :-1], len(letters)).float()
    torch.manual_seed(seed)
    model = CharModel(space, len(letters), 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(value), codes[:, 1:].reshape(-1)).backward()
        optimizer.step()
    text = start
    while len(text) < length:
        so_far = torch.tensor([[letters.index(c) for c in text]])
        text += letters[model(nn.functional.one_hot(so_far, len(letters)).float())[-1].argmax()]
    return text


@pytest.mark.parametrize("seed", SEEDS)
def test_completes_the_sentence(seed):
    assert complete(nn, "good", seed) == "good i am fine ", "the example itself no longer works in torch.nn"
    assert complete(fastrnn, "good", seed) == "good i am fine "
