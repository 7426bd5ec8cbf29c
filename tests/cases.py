"""The one table of cases, and the helpers that run a case on torch.nn and on fastrnn and compare.

Everything random is drawn in f64 and rounded to the dtype asked for, so that an f32 case and the f64 reference of the
accuracy tests see the same numbers.
"""

import itertools
from dataclasses import dataclass, field

import chance
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import fastrnn

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
DTYPES = (torch.float32, torch.float64)

# How a batch of sequences reaches forward().
LAYOUTS = ("batched", "unbatched", "packed", "packed_unsorted")

# One row per kernel: a later recurrence is added here and meets every size, thread and ISA test.
KERNELS = {
    "rnn_tanh": ("RNN", {"nonlinearity": "tanh"}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
    "lstm": ("LSTM", {}),
    "lstm_proj": ("LSTM", {"proj_size": 2}),
    "gru": ("GRU", {}),
}

# Cells that torch.nn does not have, some with a projection.
VARIANTS = (
    "lstm_peephole",
    "lstm_peephole_proj",
    "lstm_coupled",
    "lstm_coupled_peephole",
    "lstm_coupled_peephole_proj",
    "gru_reset_before",
    "jordan",
    "jordan_proj",
    "rnn_tanh_norm",
    "rnn_relu_norm",
    "lstm_norm",
    "lstm_norm_proj",
    "lstm_peephole_norm",
    "lstm_coupled_norm",
    "lstm_coupled_peephole_norm_proj",
    "gru_norm",
)


@dataclass(frozen=True)
class Case:
    """One call of one layer: constructor options, sizes, and the form of its inputs."""

    layer: str
    options: dict = field(hash=False)
    layout: str = "batched"
    has_hx: bool = True
    seq: int = 4
    batch: int = 3
    input_size: int = 3
    hidden_size: int = 5

    def __str__(self):
        words = [self.layer]
        words += [f"{k}={v}" for k, v in self.options.items()]
        words += [self.layout, "hx" if self.has_hx else "nohx"]
        words += [f"T{self.seq}", f"B{self.batch}", f"I{self.input_size}", f"H{self.hidden_size}"]
        return "-".join(words)

    @property
    def relu(self):
        return self.options.get("nonlinearity") == "relu"

    @property
    def depth(self):
        """How many steps a value passes through from the input to the last output."""
        return self.seq * self.options.get("num_layers", 1)

    @property
    def lengths(self):
        """Lengths of a packed batch, drawn: the longest is seq, none is zero, order as the layout says."""
        if not self.layout.startswith("packed"):
            return None
        lengths = torch.randint(1, self.seq + 1, (self.batch,))
        lengths[torch.randint(self.batch, ())] = self.seq
        return lengths.sort(descending=True).values if self.layout == "packed" else lengths

    def build(self, dtype, namespace=nn):
        return getattr(namespace, self.layer)(self.input_size, self.hidden_size, dtype=dtype, **self.options)


def option_product(layer):
    """Every combination of a layer's options, as constructor keywords."""
    table = {"num_layers": (1, 2), "bias": (True, False), "batch_first": (False, True), "bidirectional": (False, True)}
    if layer == "RNN":
        table["nonlinearity"] = ("tanh", "relu")
    if layer == "LSTM":
        table["proj_size"] = (0, 2)
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


def call_product(layer, **sizes):
    """Every combination of options, input layout, and hx given or not."""
    product = itertools.product(option_product(layer), LAYOUTS, (False, True))
    return [Case(layer, options, layout, has_hx, **sizes) for options, layout, has_hx in product]


def randn(*shape, dtype=torch.float32):
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def pair(case, dtype):
    """torch.nn's layer and ours with the same weights."""
    theirs = case.build(dtype)
    if case.relu and dtype != torch.float64:
        exact_for_relu_(theirs)
    else:
        unsaturated_(theirs)
    ours = case.build(dtype, fastrnn)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def unsaturated_(module):
    """Gates of order 1 however long their sums are.

    reset_parameters looks at hidden_size alone. Of many more input features the gates would be as large as 10, with
    rounding to match, of which the outputs' own scale knows nothing (see tolerance).
    """
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("weight_ih"):
                weight.mul_(min(1.0, (module.hidden_size / weight.shape[1]) ** 0.5))


def exact_for_relu_(module):
    """Weights with which an f32 relu network computes without rounding.

    relu's derivative jumps at 0, so two right f32 results whose rounding differs there have quite different gradients;
    with some 1e5 activations in a run that does happen. A few weights of +-1/2 a row, and inputs on a grid of 1/4 (see
    make_leaves), keep every sum exact in any order, so the sign at the jump is the same for everybody. Of w_hh a row
    has one weight, of +-1: halves would need another bit at every step, and several could double h. Dense f32 relu
    weights are left to the f64 cases, where the jump is hit 1e-9 times as often, and to test_accuracy.py.
    """
    with torch.no_grad():
        for name, weight in module.named_parameters():
            signs = torch.randint(0, 2, weight.shape) - 0.5
            if name.startswith("weight_hh"):
                chosen = torch.randint(weight.shape[1], (len(weight), 1))
                weight.copy_(2 * signs * torch.zeros(weight.shape).scatter(1, chosen, 1.0))
            else:
                weight.copy_(signs * (torch.rand(weight.shape) < min(1.0, 4 / weight.shape[-1])))


def away_from_the_jump_(module):
    """Biases that hold every relu unit firmly on or off.

    An f32 result that falls on the other side of relu's jump has quite another gradient, for torch.nn as for us: one
    such element would be the whole error.
    """
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("bias_ih"):
                weight.copy_(8.0 * (2 * torch.randint(0, 2, weight.shape) - 1))
            elif name.startswith("weight"):
                # Small enough that what arrives from other units, themselves around 8, cannot outweigh the bias.
                weight.mul_(0.1)


def make_leaves(case, dtype):
    """The tensors of one call, by name, on which gradients are asked for."""
    directions = 2 if case.options.get("bidirectional") else 1
    rows = case.options.get("num_layers", 1) * directions
    batch = () if case.layout == "unbatched" else (case.batch,)
    shape = (case.seq, *batch)
    if case.options.get("batch_first") and batch:
        shape = shape[::-1]
    leaves = {"input": randn(*shape, case.input_size, dtype=dtype)}
    if case.has_hx:
        out = case.options.get("proj_size") or case.hidden_size
        leaves["hx"] = randn(rows, *batch, out, dtype=dtype)
        if case.layer == "LSTM":
            leaves["cx"] = randn(rows, *batch, case.hidden_size, dtype=dtype)
    if case.relu and dtype != torch.float64:
        leaves = {name: (4 * leaf).round() / 4 for name, leaf in leaves.items()}
    return leaves


def call(module, leaves, lengths=None, enforce_sorted=True):
    """module(input, hx), with input packed when lengths are given, and hx as the layer wants it."""
    value = leaves["input"]
    if lengths is not None:
        value = pack_padded_sequence(value, lengths, module.batch_first, enforce_sorted)
    if "hx" not in leaves:
        return module(value)
    return module(value, (leaves["hx"], leaves["cx"]) if "cx" in leaves else leaves["hx"])


def flatten(result):
    """What a layer or cell returned, as tensors by name."""
    named = {}
    items = result if isinstance(result, (tuple, list)) and not isinstance(result, PackedSequence) else (result,)
    for name, item in zip(("output", "final"), items, strict=False):
        if isinstance(item, PackedSequence):
            named |= {f"{name}.{f}": t for f, t in zip(item._fields, item, strict=True) if t is not None}
        elif isinstance(item, (tuple, list)):
            named |= {f"{name}[{i}]": t for i, t in enumerate(item)}
        else:
            named[name] = item
    return named


def draw_upstream(outputs, seed=0):
    """Gradients of these outputs, the same for the same seed, in f64.

    They are bounded: where a gate saturates, 1 - tanh^2 is near 0 and its error is not, and what it is multiplied by is
    the whole error.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(t.shape, generator=generator, dtype=torch.float64) for t in outputs]
    return [3**0.5 * (2 * draw - 1) for draw in drawn]  # of unit variance


def outputs_and_gradients(module, leaves, run, upstream_seed=0, rounded_to=None):
    """Every output of run(module, leaves), and the gradient of a random weighting of them for every leaf and weight.

    The weighting is drawn in f64 and rounded to `rounded_to`, by default to each output's own dtype.
    """
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    outputs = flatten(run(module, leaves))
    results = {name: tensor.detach() for name, tensor in outputs.items()}
    differentiable = [tensor for tensor in outputs.values() if tensor.requires_grad]
    upstream = draw_upstream(differentiable, upstream_seed)
    upstream = [draw.to(rounded_to or t.dtype).to(t) for draw, t in zip(upstream, differentiable, strict=True)]
    wanted = leaves | dict(module.named_parameters())
    gradients = torch.autograd.grad(differentiable, list(wanted.values()), upstream, allow_unused=True)
    return results | {f"gradient of {name}": g for name, g in zip(wanted, gradients, strict=True)}


def tolerance(dtype, depth, terms):
    """The relative difference allowed between two right results.

    A sum of n rounded terms is off by about sqrt(n)/2 ulp of its terms' size, whatever its order, and a sigmoid or tanh
    by up to 4 ulp more. Such an error enters at each of `depth` steps, is carried on by factors around 1, and adds up
    like a random walk: sqrt(depth) of them, and as many again on the way back. 4 covers the largest of the some 1e5
    elements compared, and that both sides have such an error.
    """
    ulp = torch.finfo(dtype).eps
    return 4 * ulp * (terms**0.5 / 2 + 4) * (2 * depth) ** 0.5


def case_tolerance(case, dtype):
    # The longest sum: over inputs or hidden units going forward, gates going back, steps and batch for weights.
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[case.layer]
    return tolerance(dtype, case.depth, max(case.input_size, gates * case.hidden_size, case.seq * case.batch))


def assert_same(expected, actual, relative):
    """Same names, dtypes and shapes, and values within `relative` of the tensor's scale.

    The scale is at least 1, because inputs, states and upstream gradients are: where large terms cancel, as in
    1 - tanh(x)^2, what remains carries their rounding.
    """
    assert list(expected) == list(actual)
    for name, theirs in expected.items():
        ours = actual[name]
        assert (theirs is None) == (ours is None), f"{name}: torch has {theirs}, fastrnn has {ours}"
        if theirs is None:
            continue
        assert (theirs.dtype, theirs.shape) == (ours.dtype, ours.shape), name
        if not theirs.is_floating_point():
            assert torch.equal(theirs, ours), f"{name}: torch has {theirs}, fastrnn has {ours}"
        elif theirs.numel():
            scale = max(1.0, theirs.abs().max().item())
            error = (theirs - ours).abs().max().item() / scale
            chance.note(error / relative if relative else error)
            # False for NaN, which must fail.
            assert error <= relative, f"{name}: differs by {error:.3g} of its scale, {relative:.3g} allowed"


def check_parity(case, dtype, run=call, relative=None):
    """Run a case on torch.nn and on fastrnn: outputs and every gradient agree."""
    theirs, ours = pair(case, dtype)
    leaves = make_leaves(case, dtype)
    lengths = case.lengths
    if lengths is not None:
        sorted_ = case.layout == "packed"

        def run(module, leaves):
            return call(module, leaves, lengths, enforce_sorted=sorted_)

    expected = outputs_and_gradients(theirs, leaves, run)
    actual = outputs_and_gradients(ours, leaves, run)
    assert_same(expected, actual, relative or case_tolerance(case, dtype))
