"""Parity over sizes that leave tails in every vector width and register tile, under every thread count."""

import pytest
import torch
from cases import DTYPES, KERNELS, Case, check_parity

pytestmark = pytest.mark.thorough

HIDDEN = (1, 3, 16, 17, 33, 64, 100)
BATCH = (1, 2, 5, 6, 7, 13, 25)
SEQ = (1, 2, 7)

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
by_kernel = pytest.mark.parametrize("kernel", KERNELS)


def case_of(kernel, hidden, batch, seq, layout="batched", input_size=3, **more):
    layer, options = KERNELS[kernel]
    options = options | more
    if options.get("proj_size"):
        # A projection with tails of its own, still smaller than H.
        options["proj_size"] = max(1, hidden * 2 // 3)
    return Case(layer, options, layout, seq=seq, batch=batch, input_size=input_size, hidden_size=hidden)


@pytest.mark.isa
@by_kernel
@by_dtype
@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("batch", BATCH)
def test_tails(kernel, dtype, hidden, batch):
    if hidden == 1 and kernel == "lstm_proj":
        hidden = 2  # a projection is smaller than H
    for seq in SEQ:
        check_parity(case_of(kernel, hidden, batch, seq, bidirectional=seq < 3), dtype)
    check_parity(case_of(kernel, hidden, batch, 4, "packed", bidirectional=True), dtype)


@pytest.mark.isa
@by_kernel
@by_dtype
@pytest.mark.parametrize("input_size", (1, 2, 16, 31, 129))
def test_input_sizes(kernel, dtype, input_size):
    check_parity(case_of(kernel, 9, 4, 3, input_size=input_size, num_layers=2), dtype)


@by_kernel
@by_dtype
@pytest.mark.parametrize("shape", ((12, 1, 256), (6, 32, 128), (40, 8, 48)), ids=str)
@pytest.mark.parametrize("layout", ("batched", "packed"))
def test_threaded(kernel, dtype, shape, layout, threads):
    """Work large enough to be shared out: slices of H, barriers between steps, rows that end at different times."""
    seq, batch, hidden = shape
    check_parity(case_of(kernel, hidden, batch, seq, layout, input_size=20, bidirectional=True), dtype)


@by_kernel
@pytest.mark.parametrize("layout", ("batched", "packed"))
def test_directions_on_their_own_threads(kernel, layout, threads, chunks):
    """Each in several chunks, whose parts of the input's gradient meet midway (test_explain.py pins the path)."""
    chunks(512)
    check_parity(case_of(kernel, 96, 3, 1000, layout, bidirectional=True), torch.float64)


@by_kernel
@pytest.mark.parametrize("layout", ("batched", "packed"))
@pytest.mark.parametrize("layers", (2, 3))
@pytest.mark.parametrize("rows", (0, 48))
def test_layers_as_a_wavefront(kernel, layout, layers, rows, threads, chunks):
    """In one chunk of several parts, and in several chunks (test_explain.py pins the path)."""
    chunks(rows)
    check_parity(case_of(kernel, 48, 3, 200, layout, num_layers=layers), torch.float64)


@pytest.mark.isa
@by_kernel
@by_dtype
@pytest.mark.parametrize("layout", ("batched", "packed"))
@pytest.mark.parametrize("bidirectional", (False, True))
@pytest.mark.parametrize("layers", (2, 3))
@pytest.mark.parametrize("rows", (1, 5, 16))
def test_chunks(kernel, dtype, layout, bidirectional, layers, rows, chunks):
    """As a long call is cut: from a step at a time to all but the last few together."""
    chunks(rows)
    check_parity(case_of(kernel, 9, 3, 6, layout, bidirectional=bidirectional, num_layers=layers), dtype)


@pytest.mark.isa
@by_kernel
@by_dtype
@pytest.mark.parametrize("layout", ("batched", "packed"))
@pytest.mark.parametrize("steps", (0, 1, 3, 16))
def test_input_product(kernel, dtype, layout, steps, input_steps):
    """Ahead of the time loop or in it, of some steps or of all at a time (test_explain.py pins the path)."""
    input_steps(steps)
    check_parity(case_of(kernel, 21, 5, 7, layout, input_size=19, bidirectional=True, num_layers=2), dtype)


@by_kernel
@pytest.mark.parametrize("shape", ((12, 1, 256), (6, 32, 128)), ids=str)
@pytest.mark.parametrize("layout", ("batched", "packed"))
def test_input_product_ahead_on_threads(kernel, shape, layout, input_steps, threads):
    """Elsewhere the time loop makes most of these."""
    input_steps(0)
    seq, batch, hidden = shape
    check_parity(case_of(kernel, hidden, batch, seq, layout, input_size=20), torch.float64)


@pytest.mark.isa
@by_kernel
@by_dtype
@pytest.mark.parametrize("seq", (1, 52))
@pytest.mark.parametrize("layout", ("batched", "packed"))
def test_large_weights_of_the_input(kernel, dtype, seq, layout, threads):
    """Of 2 MB or more, packed panel by panel: by columns, and of 260 rows by rows."""
    check_parity(case_of(kernel, 70, 5, seq, layout, input_size=8000), dtype)


def test_thread_count_changed_midway():
    case = case_of("lstm", 128, 16, 5)
    for count in (2, 1, 3, 2):
        torch.set_num_threads(count)
        check_parity(case, torch.float64)


@by_kernel
def test_long_sequence(kernel):
    """Offsets and errors that grow with T."""
    check_parity(case_of(kernel, 20, 2, 1000), torch.float64)
