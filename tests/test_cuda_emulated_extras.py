"""Extras (fastrnn.reference.Extras) on the CUDA ops, whose kernels run on the emulated GPU (tests/cuda): op by op, each
extra by itself and all together, against the CPU's ops on the same arguments.

The CPU's are held against the reference in test_extras.py. What the kernels do to memory, and under every schedule, is
tested without torch.
"""

from dataclasses import dataclass

import pytest
import torch
from cases import KERNELS, VARIANTS, assert_same, exact_for_relu_, randn, tolerance
from primals import weight_shapes
from test_cuda_emulated_layers import HALF, ON_CHIP, STREAMED, library  # noqa: F401
from torch import nn
from torch.utils._pytree import tree_leaves

from fastrnn import reference
from fastrnn._ops.cells import CELLS
from fastrnn.reference import CUT_GRADIENT, CUT_STATE

ADDED = ("cuts", "resets", "h_mask", "kept", "shares", "clip", "cells", "all")
LAYOUTS = ("dense", "packed", "padded", "sizes on the GPU")
STEPS, BATCH, INPUT = 5, 5, 3  # of a ragged batch, one row never runs
STREAMED_NORM = 19  # with layer norm: see magnified

# Only the LSTM has a c.
EXTENDED = [(k, added) for k in KERNELS for added in ADDED if added != "cells" or k.startswith("lstm")]
# Relu's derivative jumps: it is right where the sums are exact, which 8 bits don't hold.
HALVES = [(*k, half) for k in EXTENDED for half in HALF if (k[0], half) != ("rnn_relu", torch.bfloat16)]

by_kernel = pytest.mark.parametrize("kernel", KERNELS)

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("library")]


@dataclass
class Call:
    """What the ops take, and the gradients of what they return."""

    cell: str
    plain: list  # input, states, weights, batch_sizes, bidirectional, allow_tf32
    resets: list  # reset states, or none
    extras: list  # cuts, h_mask, kept, shares, state_grad_clip, return_cells, activations
    grads: list  # of output, final states (a list), cells

    def to(self, dtype):
        def cast(value):
            if isinstance(value, list):
                return [cast(v) for v in value]
            return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

        return Call(self.cell, *map(cast, (self.plain, self.resets, self.extras, self.grads)))

    def run(self, ops, groups=0):
        """Everything that the ops of a library return, by name, but for the reserve."""
        input, states, *others = self.plain
        arguments = [input, [*states, *self.resets], *others, *self.extras]
        inferred = ops._infer(self.cell, *arguments)
        *outputs, reserve = ops._forward(self.cell, *arguments)
        gradients = ops._backward(self.cell, *self.grads, outputs[0], reserve, True, True, groups, *arguments)
        return (
            named(("inferred output", "inferred final", "inferred cells"), inferred)
            | named(("output", "final", "cells"), outputs)
            | named(("grad_input", "grad_state", "grad_weight"), gradients)
        )


def named(names, values):
    results = {}
    for name, value in zip(names, values, strict=True):
        tensors = value if isinstance(value, (list, tuple)) else [value]
        results |= {f"{name}[{i}]": tensor for i, tensor in enumerate(tensors)}
    return results


def streamed(kernel):
    """A hidden size whose weights are read from memory at each step."""
    return STREAMED_NORM if "_norm" in kernel else STREAMED


def draw(kernel, added, layout="dense", bidirectional=False, dtype=torch.float64, steps=STEPS, hidden=None):
    """A call with what is added, in numbers of the dtype; with relu, f32 sums of them are exact in any order."""
    cell, directions = kernel.removesuffix("_proj"), 1 + bidirectional
    hidden = hidden or streamed(kernel)
    projection = hidden // 2 if kernel.endswith("_proj") else 0
    recurrent = projection or hidden
    sizes = (recurrent, *[hidden] * (CELLS[cell].states - 1))
    batch_sizes = draw_sizes(layout, steps)
    rows = int(batch_sizes.sum()) if layout == "packed" else steps * BATCH
    shape = (rows,) if layout == "packed" else (steps, BATCH)

    shapes = weight_shapes(kernel, INPUT, hidden, projection)
    weights = [randn(*s, dtype=torch.float64) / s[-1] ** 0.5 for _ in range(directions) for s in shapes]
    data = [randn(*shape, INPUT, dtype=torch.float64), *draw_states(directions, sizes)]
    resets = draw_states(directions, sizes) if added in ("resets", "all") else []
    if kernel == "rnn_relu":
        exact_for_relu_(nn.ParameterList(weights))
        data, resets = ([(4 * t).round() / 4 for t in tensors] for tensors in (data, resets))

    cell_features = sum(sizes[1:])
    returns_cells = cell_features > 0 and added in ("cells", "all")
    grads = [randn(*shape, directions * recurrent, dtype=torch.float64), draw_states(directions, sizes)]
    grads.append(randn(*shape, directions * cell_features, dtype=torch.float64) if returns_cells else None)
    clip = 0.25 if added in ("clip", "all") else None
    plain = [data[0], data[1:], weights, batch_sizes, bidirectional, False]
    masks = draw_masks(added, directions, rows, sizes)
    activations = [list(reference.ACTIVATIONS).index(name) for name in ("sigmoid", "tanh")]
    return Call(cell, plain, resets, [*masks, clip, returns_cells, activations], grads).to(dtype)


def draw_sizes(layout, steps):
    """Of a padded batch, at the last step nothing runs."""
    if layout == "dense":
        return None
    last = 2 if layout == "packed" else 0
    return torch.tensor([4, 4, 3, 2, last][-steps:])


def draw_states(directions, sizes):
    return [randn(directions, BATCH, size, dtype=torch.float64) for size in sizes]


def draw_masks(added, directions, rows, sizes):
    """cuts, h_mask, kept, shares."""
    everything = added == "all"

    def pick(values, *shape):
        return torch.tensor(values, dtype=torch.float64)[torch.randint(len(values), (directions, *shape))]

    cuts, h_mask, kept = None, None, None
    if added in ("cuts", "resets", "all"):
        kinds = [0, 0, CUT_GRADIENT] + [CUT_STATE] * (added != "cuts")
        cuts = pick(kinds, rows).to(torch.uint8)
    if added == "h_mask" or everything:
        h_mask = pick([0, 1.25, 1.25, 1.25], BATCH, sizes[0])
    if added == "kept" or everything:
        kept = [pick([0, 0, 1], rows, size) for size in sizes]
    return [cuts, h_mask, kept, [0.25, 0.375, 0.5, 0.125][: len(sizes)] if added == "shares" else None]


def keep_from_the_jump_(call):
    """Biases beside which no normalised sum comes near 0: it is never exact, and relu's derivative jumps there."""
    weights = call.plain[2]
    for b_ih in weights[2 :: len(weights) // 2]:  # of both directions
        b_ih += 8 * (-1) ** torch.arange(len(b_ih))


def both_devices(monkeypatch, call, layout="dense", expected_dtype=None, groups=0):
    """The results of the CPU's ops and of CUDA's."""
    expected = call.to(expected_dtype or call.plain[0].dtype).run(torch.ops.fastrnn, groups)
    monkeypatch.setenv("FASTRNN_EMULATE_DEVICE_SIZES", str(int(layout == "sizes on the GPU")))
    return expected, call.run(torch.ops.fastrnn_emulated, groups)


def stored_tolerance(dtype, depth):
    """The relative difference from exact results of a half type.

    At each step half an ulp is lost in six places: x W_ih, h, the masked h, the values saved for backward, what it
    takes the candidate of h or c from, and the saved values' gradients. That adds up as in cases.tolerance.
    """
    return 4 * torch.finfo(dtype).eps / 2 * (6 * 2 * depth) ** 0.5


def magnified(kernel):
    """Layer normalisation divides what a row differs by in rounding, too, by its standard deviation: a third or so.

    So with STREAMED_NORM units. Of 5, or of a projection's two, some are so nearly equal that one call in 60 differs by
    more than this allows, and 4 times as much was seen.
    """
    return 4 if "_norm" in kernel else 1


@pytest.mark.parametrize(
    ("kernel", "added"), EXTENDED + [(kernel, added) for kernel in VARIANTS for added in ("nothing", "all")]
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("f32", "f64"))
def test_equal_to_the_cpu(monkeypatch, kernel, added, layout, dtype):
    for bidirectional in (False, True):
        call = draw(kernel, added, layout, bidirectional, dtype)
        gates = CELLS[call.cell].gates
        allowed = tolerance(dtype, STEPS, max(gates * streamed(kernel), STEPS * BATCH)) * magnified(kernel)
        assert_same(*both_devices(monkeypatch, call, layout), allowed)


@pytest.mark.parametrize(
    ("kernel", "added", "half"), HALVES + [(kernel, "all", half) for kernel in VARIANTS for half in HALF], ids=str
)
@pytest.mark.parametrize("layout", ("dense", "sizes on the GPU"))
def test_half_types(monkeypatch, kernel, added, half, layout):
    steps = 2 if kernel == "rnn_relu" else STEPS
    call = draw(kernel, added, layout, True, half, steps, hidden=ON_CHIP)
    if kernel == "rnn_relu_norm":
        keep_from_the_jump_(call)
    expected, actual = both_devices(monkeypatch, call, layout, torch.float64)
    assert {value.dtype for value in actual.values()} == {half}
    actual = {name: value.double() for name, value in actual.items()}
    assert_same(expected, actual, stored_tolerance(half, steps) * magnified(kernel))


@pytest.mark.parametrize(
    "kernel", [kernel for kernel in (*KERNELS, *VARIANTS) if kernel in CELLS and CELLS[kernel].plain]
)
@pytest.mark.parametrize("path", ("persistent", "cluster"))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_plain_calls_on_the_chip(library, monkeypatch, kernel, path, layout):  # noqa: F811
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    before = library.fastrnn_emulated_passes(path.encode())
    call = draw(kernel, "nothing", layout, bidirectional=True, dtype=torch.float32, hidden=ON_CHIP)
    allowed = tolerance(torch.float32, STEPS, max(CELLS[kernel].gates * ON_CHIP, STEPS * BATCH))
    assert_same(*both_devices(monkeypatch, call, layout), allowed)
    assert library.fastrnn_emulated_passes(path.encode()) > before


@pytest.mark.parametrize("kernel", (*KERNELS, *VARIANTS))
def test_gradients_of_groups(monkeypatch, kernel):
    call = draw(kernel, "all", bidirectional=True)
    expected, actual = both_devices(monkeypatch, call, groups=BATCH)
    assert expected["grad_weight[0]"].shape[0] == BATCH
    assert_same(expected, actual, 1e-12)


@by_kernel
def test_streamed(library, kernel):  # noqa: F811
    """Where a plain call would keep the weights on the chip."""

    def count():
        return [library.fastrnn_emulated_passes(path) for path in (b"persistent", b"cluster")]

    before = count()
    draw(kernel, "all", dtype=torch.float16, hidden=ON_CHIP).run(torch.ops.fastrnn_emulated)
    assert count() == before


@by_kernel
def test_nothing_added_changes_nothing(kernel):
    """Not by a bit."""
    call, ops = draw(kernel, "nothing", bidirectional=True), torch.ops.fastrnn_emulated
    call.extras[4] = 1e9  # a clip that changes no gradient, or the plain kernels run
    results = call.run(ops)
    (input, states, weights, *settings), (of_output, of_finals, _) = call.plain, call.grads
    primals = [input, *states, *weights]
    *outputs, reserve = ops._plain_forward(call.cell, primals, *settings)
    given = [of_output, *of_finals]
    grads = ops._plain_backward(call.cell, primals, *settings, given, outputs[0], reserve, True, True, 0)
    plain = (*outputs, *grads)
    extended = [value for name, value in results.items() if name.startswith(("output", "final", "grad"))]
    for ours, theirs in zip(plain, extended, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16, torch.float32, torch.float64), ids=str)
def test_relu_of_a_unit_that_is_off_passes_nothing(dtype):
    """Though its h is not 0: of the old value a share is left, whose rounding must not be taken for a candidate."""
    share = torch.tensor(0.3).item()  # what float32 holds, and no short fraction
    call = draw("rnn_relu", "nothing", dtype=dtype)
    input, (hx,), weights, *_ = call.plain
    weights[:2] = [randn(*w.shape, dtype=dtype) / 16 for w in weights[:2]]
    weights[2] = torch.tensor([4, -4, 4, -4, -4], dtype=dtype)
    call.extras[3] = [share]
    call.plain[1] = [hx.abs()]
    actual = call.run(torch.ops.fastrnn_emulated)

    leaves = [t.double().requires_grad_() for t in (input, hx.abs(), *weights)]
    extras = reference.Extras(shares=(share,))
    outputs = reference.layer("rnn_relu", leaves[0], leaves[1:2], leaves[2:], False, None, extras)
    gradients = torch.autograd.grad(outputs, leaves, [g.double() for g in tree_leaves(call.grads[:2])])
    names = ["grad_input[0]", "grad_state[0]", *(f"grad_weight[{i}]" for i in range(4))]
    expected = dict(zip(names, gradients, strict=True))
    allowed = max(stored_tolerance(dtype, STEPS), tolerance(dtype, STEPS, STEPS * BATCH))
    assert_same(expected, {name: actual[name].double() for name in names}, allowed)
