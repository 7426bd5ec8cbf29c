"""What kernels add to the plain recurrence (reference.Extras), each by itself and all together, against the reference.

The reference is held against loops that a user would write in test_recurrences.py.
"""

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from cases import KERNELS, VARIANTS
from primals import RAGGED, assert_close_trees, loss_of, weight_shapes
from torch.autograd import gradcheck, gradgradcheck

from fastrnn import reference
from fastrnn._ops import autograd
from fastrnn._ops.cells import CELLS
from fastrnn.reference import CUT_GRADIENT, CUT_STATE, Extras

pytestmark = pytest.mark.thorough

# What one call adds; "resets" and "zoneout" take several fields together.
ADDED = ("cuts", "resets", "h_mask", "kept", "shares", "clip", "cells", "all")


@dataclass(frozen=True)
class ExtendedCase:
    """A call of autograd.run in f64, of 4 rows with lengths 5, 5, 3, 2 where it is ragged."""

    kernel: str
    added: str
    bidirectional: bool = False
    ragged: str | None = None
    hidden_size: int = 19  # a whole vector and a part of one
    activations: tuple[str, str] = ("sigmoid", "tanh")  # of the cell that is told
    steps: int = 5

    def __str__(self):
        return "-".join([self.kernel, self.added, "bidirectional" * self.bidirectional, self.ragged or "dense"])

    @property
    def cell(self):
        return self.kernel.removesuffix("_proj")

    @property
    def batch_sizes(self):
        return None if self.ragged is None else torch.tensor([4, 4, 3, 2, 2])

    @property
    def rows(self):
        return 15 if self.ragged == "packed" else self.steps * 4

    @property
    def has_resets(self):
        return self.added in ("resets", "all")

    @property
    def projection(self):
        if not self.kernel.endswith("_proj"):
            return 0
        return 9 if "norm" in self.kernel else 2  # of two, a product's units are nearly equal in some draws

    def sizes(self):
        """Of each state."""
        return self.projection or self.hidden_size, *[self.hidden_size] * (CELLS[self.cell].states - 1)

    def tensors(self):
        """Input, states, reset states and weights, and the extras."""
        directions = 2 if self.bidirectional else 1
        hidden = self.hidden_size
        sizes, projection = self.sizes(), self.projection

        def draw(*shape):
            return torch.randn(shape, dtype=torch.float64)

        input = draw(self.rows, 3) if self.ragged == "packed" else draw(self.steps, 4, 3)
        states = [draw(directions, 4, size) for size in sizes]
        resets = [draw(directions, 4, size) for size in sizes] if self.has_resets else []
        shapes = weight_shapes(self.kernel, 3, hidden, projection)
        # Gains around 1: with larger ones a wide layer is chaotic, and chance decides how much of rounding is left.
        weights = [draw(*shape) / max(3, shape[-1] ** 0.5) for _ in range(directions) for shape in shapes]
        if projection and self.activations[1] == "relu":
            weights[-1][0] += 5  # two outputs are soon negative in every row and step, and then no gradient is left
        return (input, states, resets, weights), self.extras(directions)

    def extras(self, directions):
        sizes, everything = self.sizes(), self.added == "all"

        def keeps(size):
            return (torch.rand(directions, self.rows, size) < 0.4).double()

        extras = Extras()
        if self.cell == "jordan":
            extras = replace(extras, activations=self.activations)
        if self.added == "cuts" or self.has_resets:
            # What a row has before its first step has no meaning, unless that is the loop's first.
            kinds = torch.tensor([0, 0, CUT_GRADIENT] + [CUT_STATE] * self.has_resets, dtype=torch.uint8)
            extras = replace(extras, cuts=kinds[torch.randint(len(kinds), (directions, self.rows))])
        if self.added == "h_mask" or everything:
            extras = replace(extras, h_mask=(torch.rand(directions, 4, sizes[0]) < 0.7) / 0.7)
            extras = replace(extras, h_mask=extras.h_mask.double())
        if self.added == "kept" or everything:
            extras = replace(extras, kept=tuple(map(keeps, sizes)))
        if self.added == "shares":
            extras = replace(extras, shares=(0.3, 0.4, 0.2, 0.1)[: len(sizes)])
        if self.added == "clip" or everything:
            extras = replace(extras, state_grad_clip=0.05)
        if self.added == "cells" or everything:
            extras = replace(extras, return_cells=len(sizes) > 1)
        return extras

    def functions(self, extras, resets):
        """The layer as a function of its primals: on the kernels, and as torch ops."""
        states = CELLS[self.cell].states
        data = 1 + states * (2 if resets else 1)

        def split(primals):
            return primals[0], primals[1 : 1 + states], primals[1 + states : data], primals[data:]

        def ours(*primals):
            input, states, resets, weights = split(primals)
            settings = self.bidirectional, self.batch_sizes, None, extras, resets
            return autograd.run(self.cell, input, states, weights, *settings)

        def oracle(*primals):
            input, states, resets, weights = split(primals)
            settings = self.bidirectional, self.batch_sizes, extras
            return reference.layer(self.cell, input, states, weights, *settings, resets)

        return ours, oracle


def draw(case):
    """The primals of a case, and its two functions."""
    (input, states, resets, weights), extras = case.tensors()
    return (input, *states, *resets, *weights), *case.functions(extras, resets)


def check(case):
    primals, ours, oracle = draw(case)
    with torch.no_grad():
        assert_close_trees(ours(*primals), oracle(*primals))
    leaves = [primal.requires_grad_() for primal in primals]
    expected = torch.autograd.grad(loss_of(oracle)(*leaves), leaves)
    assert_close_trees(torch.autograd.grad(loss_of(ours)(*leaves), leaves), expected)
    assert any(grad.abs().max() > 0 for grad in expected)


@pytest.mark.parametrize(
    "case",
    [
        ExtendedCase(kernel, added, bidirectional=True, ragged=ragged)
        for kernel, added, ragged in itertools.product(KERNELS, ADDED, RAGGED)
        if added != "cells" or kernel.startswith("lstm")
    ]
    + [
        ExtendedCase(kernel, added, bidirectional=True, ragged=ragged)
        for kernel, added, ragged in itertools.product(VARIANTS, ("none", "shares", "all"), RAGGED)
        if added != "shares" or not kernel.startswith("jordan")
    ],
    ids=str,
)
def test_kernels_equal_reference(case):
    check(case)


@pytest.mark.parametrize("activations", list(itertools.product(reference.ACTIVATIONS, repeat=2)), ids="-".join)
def test_activations_equal_reference(activations):
    check(ExtendedCase("jordan_proj", "none", activations=activations))
    check(ExtendedCase("jordan", "none", activations=activations))


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
@pytest.mark.parametrize("ragged", RAGGED)
def test_kernels_equal_reference_on_threads(kernel, ragged, threads):
    check(ExtendedCase(kernel, "all", bidirectional=True, ragged=ragged, hidden_size=70))


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
def test_kernels_equal_reference_in_one_direction(kernel):
    check(ExtendedCase(kernel, "all"))


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
@pytest.mark.parametrize("ragged", RAGGED)
def test_kernels_equal_reference_in_chunks(kernel, ragged, chunks):
    chunks(3)
    check(ExtendedCase(kernel, "all", bidirectional=True, ragged=ragged))


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
@pytest.mark.parametrize("ragged", RAGGED)
def test_kernels_equal_reference_with_the_input_multiplied_ahead(kernel, ragged, input_steps, threads):
    """Elsewhere the time loop makes most of these products."""
    input_steps(0)
    check(ExtendedCase(kernel, "all", ragged=ragged, hidden_size=70))


@pytest.mark.parametrize(
    ("kernel", "added"),
    [
        (kernel, added)
        for kernel, added in itertools.product(KERNELS, ("resets", "h_mask", "kept", "shares", "cells"))
        if added != "cells" or kernel.startswith("lstm")
    ]
    + [(kernel, "none") for kernel in VARIANTS],
)
def test_gradcheck(kernel, added):
    case = ExtendedCase(kernel, added, hidden_size=3, steps=3)
    if added == "resets":
        case = replace(case, bidirectional=True, ragged="padded", steps=5)
    primals, ours, _ = draw(case)
    primals = tuple(p.requires_grad_() for p in primals)
    if added == "resets":  # cuts of the gradient alone are not the derivative of anything
        extras = case.extras(directions=2)
        extras = replace(extras, cuts=torch.where(extras.cuts == CUT_GRADIENT, 0, extras.cuts))
        ours, _ = case.functions(extras, resets=True)
    assert gradcheck(ours, primals)
    assert gradgradcheck(ours, primals, fast_mode=True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_extras_results_are_the_plain_ones_to_the_bit(kernel):
    case = ExtendedCase(kernel, "none")
    (input, states, _, weights), extras = case.tensors()
    primals = [p.requires_grad_() for p in (input, *states, *weights)]
    plain = autograd.run(case.cell, input, states, weights, False)
    extras = replace(extras, state_grad_clip=1e9)
    added = autograd.run(case.cell, input, states, weights, False, None, None, extras)
    for ours, theirs in zip(added, plain, strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = (torch.autograd.grad(sum(out.sin().sum() for out in outs), primals) for outs in (added, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
def test_bits_do_not_depend_on_threads(kernel):
    primals, ours, _ = draw(ExtendedCase(kernel, "all", bidirectional=True, hidden_size=70))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        with torch.no_grad():
            results.append(ours(*primals))
    for others in results[1:]:
        assert all(map(torch.equal, results[0], others))
