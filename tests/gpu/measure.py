"""How far results on the device are from float64's, fastrnn's and torch.nn's, and which path a call takes."""

from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
from cases import (
    KERNELS,
    Case,
    assert_same,
    call,
    case_tolerance,
    make_leaves,
    outputs_and_gradients,
)
from machine import REHEARSE, is_hopper
from test_accuracy import FACTOR, FLOOR_ULP, away_from_the_jump_
from torch import nn
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

    def results(self, namespace, dtype, device):
        """Outputs and every gradient, as float64 on the CPU."""
        module = self.module(namespace, dtype, device)
        leaves = {name: leaf.to(device, dtype) for name, leaf in self.leaves.items()}
        named = outputs_and_gradients(module, leaves, self._run, upstream_seed=1, rounded_to=self.dtype)
        return {name: t.to("cpu", torch.float64) for name, t in named.items() if t.is_floating_point()}

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


def check(case, precision, device):
    """Results are right, and came the way that they should."""
    skip_if_too_much_to_rehearse(case)
    precision.switch()
    if precision.dtype == torch.float64:
        check_parity(case, precision, device)
    else:
        check_error(case, precision, device)
    check_path(case, precision, device)


def check_parity(case, precision, device):
    draw = Draw.of(case, precision.dtype)
    expected, actual = draw.results(nn, torch.float64, "cpu"), draw.results(fastrnn, precision.dtype, device)
    assert_same(expected, actual, case_tolerance(case, precision.dtype))


# What a half type or TF32 may cost beyond torch.nn's own error, which may happen to be none: from the input to a
# result some 16 values are rounded. One rounding is off by eps / 2 at most, by eps / sqrt(12) in the mean.
ROUNDINGS = 16


def floor(precision):
    """The relative error, root of the mean square, that a result may have in any case."""
    if precision.name == "f32":
        return FLOOR_ULP * precision.eps
    return (ROUNDINGS / 12) ** 0.5 * precision.eps


def check_error(case, precision, device):
    """Against float64: at most FACTOR times torch.nn's error on the same device and switches, beyond the floor."""
    squares = defaultdict(lambda: torch.zeros(3, dtype=torch.float64))
    for _ in range(draws(case)):
        draw = Draw.of(case, precision.dtype)
        exact = draw.results(nn, torch.float64, "cpu")
        theirs, ours = (draw.results(namespace, precision.dtype, device) for namespace in (nn, fastrnn))
        assert list(exact) == list(ours)
        for name, reference in exact.items():
            errors = ((result[name] - reference).square().sum() for result in (theirs, ours))
            squares[name] += torch.stack([reference.square().sum(), *errors])
    failures = []
    for name, sums in squares.items():
        scale, theirs, ours = sums.sqrt().tolist()
        # False for NaN, which must fail.
        if not ours <= FACTOR * theirs + floor(precision) * scale:
            unit = precision.eps * scale
            failures.append(f"{name}: error {ours / unit:.2f} eps of scale, torch.nn's {theirs / unit:.2f}")
    assert not failures, "\n".join(failures)


def draws(case):
    """Many for small cases, whose few elements leave much to chance."""
    return max(1, min(3, 100_000 // (case.seq * case.batch * case.hidden_size)))


def skip_if_too_much_to_rehearse(case):
    if REHEARSE and case.seq * case.batch * case.hidden_size**2 > 2_000_000:
        pytest.skip("too large to rehearse")


# On a Hopper GPU, the largest H whose weights surely fit, by the bytes of a value.
SURELY_FITS = {2: 1024, 4: 512}


ON_CHIP = {"persistent", "cluster"}


def allowed_paths(case, precision):
    """Those that a case may take; which of several is the GPU's business."""
    on_chip = precision.on_chip and case.hidden_size % 16 == 0 and case.seq > 1 and not case.options.get("proj_size")
    if not on_chip:
        return {"streamed"}
    surely = is_hopper() and case.hidden_size <= SURELY_FITS[precision.dtype.itemsize]
    return ON_CHIP if surely else ON_CHIP | {"streamed"}


def explained(case, precision, device):
    """The rows of explain for a case."""
    module, args, kwargs = Draw.of(case, precision.dtype).arguments(precision, device)
    return fastrnn.explain(module, *args, **kwargs).rows


def check_path(case, precision, device):
    if REHEARSE:
        return
    allowed = allowed_paths(case, precision)
    for row in explained(case, precision, device):
        assert row.path in allowed, f"{row.pass_}: {row.path}, because {row.reason}"


def floating(tree):
    """Its tensors, but for what a PackedSequence says of its rows."""
    return [leaf for leaf in tree_leaves(tree) if leaf is not None and leaf.is_floating_point()]


def results_of(module, args, kwargs):
    """Outputs of module(*args, **kwargs), and the gradients of their sum."""
    outputs = floating(module(*args, **kwargs))
    wanted = [*(leaf for leaf in floating(args) if leaf.requires_grad), *module.parameters()]
    return [*outputs, *torch.autograd.grad(outputs, wanted, [torch.ones_like(out) for out in outputs])]


def close(actual, expected, eps):
    """Whether two right results of an implementation: within a few eps of the tensor's scale, at least 1."""
    for ours, reference in zip(actual, expected, strict=True):
        scale = max(1.0, reference.abs().max().item()) if reference.numel() else 1.0
        torch.testing.assert_close(ours, reference, rtol=0, atol=8 * eps * scale)
