"""torch.autograd.gradcheck in f64 for every cell and option: `make test PYTEST_ARGS="-m gradcheck"`.

Seeds are fixed here, unlike elsewhere: a finite difference that straddles relu's jump is wrong whatever we do, and
users run this group in their CI.
"""

import itertools
import zlib

import pytest
import torch
from cases import CELLS, KERNELS, LAYERS, Case, call, call_product, flatten, make_leaves, randn
from torch import nn

import fastrnn

pytestmark = pytest.mark.gradcheck

SIZES = {"seq": 3, "batch": 2, "input_size": 2, "hidden_size": 3}


class Flat(nn.Module):
    """A layer or cell whose forward takes and returns tensors by name, so that functional_call can swap its weights."""

    def __init__(self, layer, **how):
        super().__init__()
        self.layer = layer
        self.how = how

    def forward(self, leaves):
        return flatten(call(self.layer, leaves, **self.how))


def check(layer, leaves, fast, **how):
    module = Flat(layer, **how)
    weights = dict(module.named_parameters())
    values = [t.detach().clone().requires_grad_() for t in (*leaves.values(), *weights.values())]

    def function(*values):
        named = dict(zip((*leaves, *weights), values, strict=True))
        swapped = {name: named.pop(name) for name in weights}
        outputs = torch.func.functional_call(module, swapped, (named,))
        return tuple(t for t in outputs.values() if t.is_floating_point())

    assert torch.autograd.gradcheck(function, values, fast_mode=fast)


def check_case(case, fast):
    torch.manual_seed(zlib.crc32(str(case).encode()))
    layer = case.build(torch.float64, fastrnn)
    how = {}
    if case.layout.startswith("packed"):
        how = {"lengths": case.lengths, "enforce_sorted": case.layout == "packed"}
    check(layer, make_leaves(case, torch.float64), fast, **how)


@pytest.mark.parametrize("case", [c for layer in LAYERS for c in call_product(layer, **SIZES)], ids=str)
def test_every_option(case):
    """Fast mode: the Jacobian times random vectors, which sees any wrong entry."""
    check_case(case, fast=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("layout", ("batched", "packed_unsorted"))
@pytest.mark.parametrize("bidirectional", (False, True))
def test_every_entry(kernel, layout, bidirectional):
    """Slow mode: every entry of the Jacobian, for each kernel and form of input."""
    layer, options = KERNELS[kernel]
    check_case(Case(layer, options | {"bidirectional": bidirectional}, layout, **SIZES), fast=False)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [
        dict(zip(("bias", "batched", "has_hx", "relu"), v, strict=True))
        for v in itertools.product((True, False), repeat=4)
    ],
    ids=str,
)
def test_cells(cell, options):
    if options["relu"] and cell != "RNNCell":
        options = options | {"relu": False}  # the same options at other numbers
    torch.manual_seed(zlib.crc32(f"{cell} {options}".encode()))
    extra = {"nonlinearity": "relu"} if options["relu"] else {}
    layer = getattr(fastrnn, cell)(2, 3, bias=options["bias"], dtype=torch.float64, **extra)
    batch = (2,) if options["batched"] else ()
    leaves = {"input": randn(*batch, 2, dtype=torch.float64)}
    if options["has_hx"]:
        leaves["hx"] = randn(*batch, 3, dtype=torch.float64)
        if cell == "LSTMCell":
            leaves["cx"] = randn(*batch, 3, dtype=torch.float64)
    check(layer, leaves, fast=False)


@pytest.mark.parametrize("kernel", KERNELS)
def test_past_a_vector_width(kernel):
    """More hidden units and rows than one register tile holds."""
    layer, options = KERNELS[kernel]
    sizes = {"seq": 3, "batch": 7, "input_size": 3, "hidden_size": 19}
    check_case(Case(layer, options | {"num_layers": 2, "bidirectional": True}, "packed", **sizes), fast=True)
