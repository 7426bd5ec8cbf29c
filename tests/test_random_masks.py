"""The generator of random masks."""

import os
import subprocess
import sys

import pytest
import torch

from fastrnn import _native
from fastrnn._call import random

pytestmark = pytest.mark.thorough

LIKE = torch.ones(1)
DRAW = """
import torch
from fastrnn._call.random import mask
torch.manual_seed(3)
print(mask(0.3, (5003,), torch.ones(1)).nonzero().flatten().tolist())
"""


@pytest.mark.parametrize("p", (0.0, 0.01, 0.3, 0.5, 1.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_probability(p, dtype):
    count = 1 << 20
    mask = random.mask(p, (count,), LIKE.to(dtype), value=2.0)
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) <= {0.0, 2.0}
    # Six standard deviations, and the 16 bits of p.
    assert abs(mask.mean().item() / 2 - p) <= 6 * (p * (1 - p) / count) ** 0.5 + 2**-16


def test_neighbours_are_independent():
    signs = random.mask(0.5, (1 << 20,), LIKE) * 2 - 1
    for lag in (1, 2, 15, 16, 17, 32, 4096, 8192):
        assert abs((signs[lag:] * signs[:-lag]).mean()) < 0.006, lag


def test_each_call_draws_anew_and_the_seed_brings_it_back():
    torch.manual_seed(5)
    first, second = (random.mask(0.5, (10_000,), LIKE) for _ in range(2))
    assert abs(((first == second).float().mean()) - 0.5) < 0.03
    torch.manual_seed(5)
    assert torch.equal(random.mask(0.5, (10_000,), LIKE), first)


@pytest.mark.parametrize("count", (0, 1, 31, 32, 33, 4096, 4097))
def test_any_size_is_a_start_of_the_same_sequence(count):
    torch.manual_seed(5)
    whole = random.mask(0.5, (8192,), LIKE)
    torch.manual_seed(5)
    assert torch.equal(random.mask(0.5, (count,), LIKE), whole[:count])


def test_instruction_sets_draw_the_same():
    drawn = set()
    for isa in ("sse2", "avx2", _native.isa) if _native.isa.startswith(("avx", "sse")) else (_native.isa,):
        if isa == "avx2" and _native.isa == "sse2":
            continue
        environment = os.environ | {"FASTRNN_ISA": isa}
        command = [sys.executable, "-c", DRAW]
        drawn.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(drawn) == 1


def test_dropping_all_leaves_zeros():
    assert torch.equal(random.dropout_factors(1.0, (3, 4), LIKE), torch.zeros(3, 4))
