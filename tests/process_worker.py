"""What other processes run for test_processes.py; a file of its own, as spawned processes import it."""

import torch
from torch.utils.data import Dataset

import fastrnn


def build(layer="LSTM", seed=0):
    """A layer and an input on which a team of threads would be used, if there are more than one."""
    torch.manual_seed(seed)
    return getattr(fastrnn, layer)(16, 96), torch.randn(40, 16, 16)


def outputs_and_grads(module, value):
    output, final = module(value)
    final = final if isinstance(final, tuple) else (final,)
    loss = output.pow(2).sum() + sum(state.sum() for state in final)
    return [output.detach(), *(state.detach() for state in final), *torch.autograd.grad(loss, module.parameters())]


class Features(Dataset):
    """Items that the model computes, each in the worker that loads it."""

    def __init__(self, module, values):
        self.module, self.values = module, values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        with torch.no_grad():
            return self.module(self.values[index])[0][-1]


def run_pickled(module, value, path):
    """Compute on one thread, leave the results at `path`, and change the shared weights."""
    torch.set_num_threads(1)
    torch.save(outputs_and_grads(module, value), path)
    with torch.no_grad():
        module.bias_ih_l0.fill_(0.25)
