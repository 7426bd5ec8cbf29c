"""Layers as a plain function of their tensors, on the kernels and as torch ops, for the tests of derivatives."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import chance
import torch
from cases import KERNELS
from torch.utils._pytree import tree_leaves

from fastrnn import reference
from fastrnn._ops import autograd, derivatives, schema
from fastrnn._ops.cells import CELLS

KERNEL_OPS = ("plain_infer", "plain_forward", "plain_backward")  # of fastrnn._ops.schema, which every plain call takes

RAGGED = (None, "packed", "padded")


def weight_shapes(kernel, input_size, hidden_size, projection):
    """The shapes of one direction's weights, with biases, as a cell's ops take them. See reference.name_weights."""
    cell = kernel.removesuffix("_proj")
    _, gates, _, _, peepholes, norm_weights, *_ = CELLS[cell]
    per_unit_weights = peepholes + norm_weights
    rows = gates * hidden_size
    shapes = [(rows, input_size), (rows, projection or hidden_size), (rows,), (rows,)]
    shapes += [(projection, hidden_size)] * bool(projection)
    shapes += [(projection,)] * bool(projection and cell == "jordan")
    return shapes + [(per_unit_weights, hidden_size)] * bool(per_unit_weights)


@dataclass(frozen=True)
class LayerCase:
    """A call of autograd.run in f64. Ragged: three steps, of which the second row of two has only the first two."""

    kernel: str
    bidirectional: bool = False
    bias: bool = True
    ragged: str | None = None  # None, "packed" (N, I) or "padded" (T, B, I)
    layers: int = 1
    input_size: int = 2
    hidden_size: int = 3

    def __str__(self):
        words = [self.kernel, "bidirectional" * self.bidirectional, "" if self.bias else "nobias", self.ragged]
        words.append(f"{self.layers}layers" if self.layers > 1 else "")
        return "-".join(word for word in words if word)

    @property
    def cell(self):
        return self.kernel.removesuffix("_proj")

    @property
    def states(self):
        return CELLS[self.cell].states

    @property
    def of_weights(self):
        """Where the weights stand among the primals."""
        return tuple(range(1 + self.states, 1 + self.states + self._weight_count))

    @property
    def _weight_count(self):
        return self.layers * (2 if self.bidirectional else 1) * (2 + 2 * self.bias + (self.kernel == "lstm_proj"))

    @property
    def batch_sizes(self):
        return None if self.ragged is None else torch.tensor([2, 2, 1])

    def primals(self, seed=0):
        """(input, *states, *weights), the same for the same seed: a finite difference must not meet relu's jump."""
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        directions = 2 if self.bidirectional else 1
        hidden, gates = self.hidden_size, CELLS[self.cell].gates
        projection = KERNELS[self.kernel][1].get("proj_size", 0)
        recurrent = projection or hidden
        input = draw(5, self.input_size) if self.ragged == "packed" else draw(3, 2, self.input_size)
        states = [draw(self.layers * directions, 2, size) for size in (recurrent, *[hidden] * (self.states - 1))]
        shapes = []
        for layer in range(self.layers):
            input_size = directions * recurrent if layer else self.input_size
            own = [(gates * hidden, input_size), (gates * hidden, recurrent)]
            own += [(gates * hidden,)] * (2 * self.bias) + [(projection, hidden)] * bool(projection)
            shapes += own * directions
        return (input, *states, *[draw(*shape) / 2 for shape in shapes])

    def run(self, *primals):
        """On the kernels."""
        return self._call(autograd.run, primals)

    def oracle(self, *primals):
        """As torch ops."""
        return self._call(reference.layers, primals)

    def _call(self, layers, primals):
        data = 1 + self.states
        return layers(self.cell, primals[0], primals[1:data], primals[data:], self.bidirectional, self.batch_sizes)


def loss_of(function):
    """A scalar in which every output has its own weight, and no derivative vanishes.

    Weights are of order 1, so that gradients which are clipped were not a thousand times as large, and their rounding
    with them.
    """

    def loss(*primals):
        outputs = function(*primals)
        weights = (torch.linspace(1, 2, out.numel()).to(out).view_as(out) for out in outputs)
        return sum((out.sin() * weight).sum() for out, weight in zip(outputs, weights, strict=True))

    return loss


def assert_close_trees(actual, expected):
    """The same tensors up to f64 rounding, at the scale of each."""
    actual, expected = tree_leaves(actual), tree_leaves(expected)
    assert len(actual) == len(expected)
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        assert ours.shape == theirs.shape, f"tensor {index}"
        if theirs.numel():
            scale = 1 + theirs.abs().max().item()
            error = (ours - theirs).abs().max().item() / scale
            chance.note(error / 1e-10)
            assert error <= 1e-10, f"tensor {index} differs by {error:.3g} of its scale"


@contextmanager
def counted(cell):
    """How often the kernels of a cell run (KERNEL_OPS), and the formulas in their place (formula)."""
    calls = Counter()

    def wrap(name, function):
        def counting(*args):
            calls[name] += args[0] == cell or name == "formula"
            return function(*args)

        return counting

    kept = {name: getattr(schema, name) for name in KERNEL_OPS}
    formula = derivatives.forward
    for name, function in kept.items():
        setattr(schema, name, wrap(name, function))
    derivatives.forward = wrap("formula", formula)
    try:
        yield calls
    finally:
        for name, function in kept.items():
            setattr(schema, name, function)
        derivatives.forward = formula


@contextmanager
def recorded(monkeypatch):
    """Of every call of a kernel, forward or backward, the arguments by name."""
    calls = []

    def recording(op):
        names = [argument.name for argument in op._schema.arguments]

        def call(*arguments):
            calls.append(dict(zip(names, arguments, strict=True)))
            return op(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in KERNEL_OPS:
            patch.setattr(schema, name, recording(getattr(schema, name)))
        yield calls
