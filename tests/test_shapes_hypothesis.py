"""Any shape at all: hypothesis looks for one whose outputs or gradients differ from torch.nn's in f64."""

import pytest
import torch
from cases import KERNELS, LAYOUTS, Case, check_parity
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.thorough


@st.composite
def cases(draw):
    layer, options = KERNELS[draw(st.sampled_from(list(KERNELS)))]
    hidden = draw(st.integers(2 if "proj_size" in options else 1, 40))
    options = options | {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()),
    }
    if "proj_size" in options:
        options["proj_size"] = draw(st.integers(1, hidden - 1))
    layout = draw(st.sampled_from(LAYOUTS))
    return Case(
        layer,
        options,
        layout,
        has_hx=draw(st.booleans()),
        seq=draw(st.integers(1, 9)),
        # torch.nn cannot pack an empty batch.
        batch=draw(st.integers(1 if layout.startswith("packed") else 0, 20)),
        input_size=draw(st.integers(1, 20)),
        hidden_size=hidden,
    )


# No database of past failures: runs must not depend on what ran before, and the printed blob brings a failure back.
@settings(max_examples=150, deadline=None, database=None, print_blob=True)
@given(case=cases(), seed=st.integers(0, 2**31 - 1))
def test_any_shape(case, seed):
    torch.manual_seed(seed)
    check_parity(case, torch.float64)
