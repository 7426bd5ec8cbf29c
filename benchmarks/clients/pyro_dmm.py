# /// script
# dependencies = ["pyro-ppl==1.9.2"]
# ///
"""pyro: a deep Markov model of packed, reversed series, a bias of whose cell is random, by variational inference."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from adopted import SEED, Impl, Train, main
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

BATCH, STEPS, NOTES, STATE, HIDDEN_SIZE, UPDATES = 32, 30, 24, 16, 128, 16


class Model(PyroModule):
    """Notes that sound, given states, each of which comes from the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.transition = PyroModule[nn.GRUCell](STATE, STATE)
        self.transition.bias_ih = PyroSample(dist.Normal(0.0, 0.1).expand([3 * STATE]).to_event(1))
        self.emission = PyroModule[nn.Linear](STATE, NOTES)

    def forward(self, notes: Tensor, lengths: Tensor) -> None:
        self.transition.bias_ih  # noqa: B018  (drawn outside the plate: one for all series)
        z = notes.new_zeros(len(notes), STATE)
        with pyro.plate("series", len(notes)):
            for t in range(notes.shape[1]):
                sounds = (t < lengths)[:, None]
                z = pyro.sample(f"z{t}", dist.Normal(self.transition(z, z), 0.3).mask(sounds).to_event(1))
                seen = dist.Bernoulli(logits=self.emission(z)).mask(sounds).to_event(1)
                pyro.sample(f"x{t}", seen, obs=notes[:, t])


class Guide(PyroModule):
    """States, given all notes from there on."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3 * STATE))
        self.rnn = PyroModule[nn.RNN](NOTES, HIDDEN_SIZE, nonlinearity="relu", batch_first=True)
        self.h0 = nn.Parameter(torch.zeros(1, 1, HIDDEN_SIZE))
        self.head = PyroModule[nn.Linear](HIDDEN_SIZE, 2 * STATE)

    def forward(self, notes: Tensor, lengths: Tensor) -> None:
        pyro.sample("transition.bias_ih", dist.Normal(self.bias, 0.1).to_event(1))
        steps = torch.arange(notes.shape[1])
        backwards = (lengths[:, None] - 1 - steps) % notes.shape[1]
        reversed_ = notes.take_along_dim(backwards[:, :, None], 1)
        packed = pack_padded_sequence(reversed_, lengths, batch_first=True, enforce_sorted=False)
        output = self.rnn(packed, self.h0.expand(1, len(notes), HIDDEN_SIZE).contiguous())[0]
        output = pad_packed_sequence(output, batch_first=True, total_length=len(steps))[0]
        mean, scale = self.head(output.take_along_dim(backwards[:, :, None], 1)).chunk(2, -1)
        with pyro.plate("series", len(notes)):
            for t in steps.tolist():
                sounds = (t < lengths)[:, None]
                found = dist.Normal(mean[:, t], scale[:, t].exp()).mask(sounds).to_event(1)
                pyro.sample(f"z{t}", found)


def prepare(impl: Impl) -> Train:
    pyro.set_rng_seed(SEED)
    with impl.patched():
        bound = Trace_ELBO()(Model(), Guide())
    impl.check(bound)
    lengths = torch.randint(STEPS // 2, STEPS + 1, (BATCH,))
    notes = (torch.rand(BATCH, STEPS, NOTES) < 0.5 + 0.4 * torch.sin(torch.arange(STEPS) / 2.0)[:, None]).float()
    bound(notes, lengths)  # makes all the parameters
    optimizer = torch.optim.Adam(bound.parameters(), lr=3e-3)

    def update() -> float:
        loss = bound(notes, lengths) / lengths.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return lambda: [update() for _ in range(UPDATES)]


if __name__ == "__main__":
    main(prepare)
