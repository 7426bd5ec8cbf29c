"""Calls of layers in drawn numbers, for the tests of this folder and for its scripts, which run without pytest."""

from dataclasses import dataclass

import torch
from cases import KERNELS, Case, away_from_the_jump_, call, make_leaves, outputs_and_gradients
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

import fastrnn

# Beside the layouts of cases.py, a padded batch with lengths, which lie on the CPU or on the GPU.
LENGTHS = ("lengths_cpu", "lengths_gpu")


def case_of(kernel, hidden, batch, seq, layout="batched", input_size=16, has_hx=True, **more):
    layer, options = KERNELS[kernel]
    if "proj_size" in options:
        options = options | {"proj_size": max(1, hidden * 2 // 3)}
    return Case(layer, options | more, layout, has_hx, seq, batch, input_size, hidden)


def kernel_of(layer):
    """The kernel of a layer with its default options."""
    return {"RNN": "rnn_tanh", "LSTM": "lstm", "GRU": "gru"}[layer]


@dataclass(frozen=True)
class Draw:
    """A call in numbers that `dtype` holds exactly, so that the float64 reference computes on the same."""

    case: Case
    dtype: torch.dtype
    weights: dict
    leaves: dict
    lengths: torch.Tensor | None

    @classmethod
    def of(cls, case, dtype):
        module = case.build(torch.float64)
        if case.relu and dtype != torch.float64:
            away_from_the_jump_(module)
        weights = {name: weight.to(dtype).double() for name, weight in module.state_dict().items()}
        leaves = {name: leaf.to(dtype).double() for name, leaf in make_leaves(case, torch.float64).items()}
        lengths = None
        if case.layout != "batched" and case.layout != "unbatched":
            lengths = torch.randint(1, case.seq + 1, (case.batch,))
            lengths[torch.randint(case.batch, ())] = case.seq
            if case.layout == "packed":
                lengths = lengths.sort(descending=True).values
        return cls(case, dtype, weights, leaves, lengths)

    def results(self, namespace, dtype, device, to="cpu"):
        """Outputs and every gradient, as float64 on the device `to`."""
        module = self.module(namespace, dtype, device)
        leaves = {name: leaf.to(device, dtype) for name, leaf in self.leaves.items()}
        named = outputs_and_gradients(module, leaves, self._run, upstream_seed=1, rounded_to=self.dtype)
        return {name: t.to(to, torch.float64) for name, t in named.items() if t.is_floating_point()}

    def module(self, namespace, dtype, device):
        with torch.device("meta"):  # nothing is drawn for weights that are replaced
            module = self.case.build(dtype, namespace)
        weights = {name: weight.to(device, dtype) for name, weight in self.weights.items()}
        module.load_state_dict(weights, assign=True)
        module.flatten_parameters()
        return module

    def _run(self, module, leaves):
        if self.case.layout not in LENGTHS:
            return call(module, leaves, self.lengths, enforce_sorted=self.case.layout == "packed")
        if isinstance(module, fastrnn.RNN | fastrnn.LSTM | fastrnn.GRU):
            return module(leaves["input"], hx_of(leaves), lengths=self.placed_lengths(leaves["input"].device))
        # torch.nn's way to the same: packed, and padded again.
        value = pack_padded_sequence(leaves["input"], self.lengths, module.batch_first, enforce_sorted=False)
        output, finals = module(value, hx_of(leaves))
        return pad_packed_sequence(output, module.batch_first, total_length=self.case.seq)[0], finals

    def placed_lengths(self, device):
        return self.lengths.to(device) if self.case.layout == "lengths_gpu" else self.lengths

    def arguments(self, precision, device):
        """A layer of ours and what to call it with, for explain and for runs by hand."""
        module = self.module(fastrnn, precision.dtype, device)
        leaves = {name: leaf.to(device, precision.dtype).requires_grad_() for name, leaf in self.leaves.items()}
        if self.case.layout in LENGTHS:
            return module, (leaves["input"], hx_of(leaves)), {"lengths": self.placed_lengths(device)}
        value = leaves["input"]
        if self.lengths is not None:
            value = pack_padded_sequence(value, self.lengths, module.batch_first, self.case.layout == "packed")
        return module, (value, hx_of(leaves)), {}


def hx_of(leaves):
    if "hx" not in leaves:
        return None
    return (leaves["hx"], leaves["cx"]) if "cx" in leaves else leaves["hx"]


def floating(tree):
    """Its tensors, but for what a PackedSequence says of its rows."""
    return [leaf for leaf in tree_leaves(tree) if leaf is not None and leaf.is_floating_point()]
