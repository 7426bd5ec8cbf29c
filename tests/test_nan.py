"""NaN and infinity come out where torch.nn has them come out, and nowhere else."""

import pytest
import torch
from cases import DTYPES, KERNELS, Case, call, make_leaves, outputs_and_gradients, pair

# Vector code for infinities and NaN differs between instruction sets.
pytestmark = pytest.mark.isa

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
by_bad = pytest.mark.parametrize("bad", (float("nan"), float("inf"), -float("inf")), ids=("nan", "inf", "-inf"))


def pattern(tensor):
    """0 where finite, 1 and -1 at the infinities, 2 at NaN."""
    return torch.where(tensor.isnan(), 2, torch.where(tensor.isinf(), tensor.sign(), 0)).int()


def case_of(kernel, **options):
    layer, more = KERNELS[kernel]
    return Case(layer, more | options, seq=5, batch=7, input_size=3, hidden_size=19)


@by_kernel
@by_dtype
@by_bad
@pytest.mark.parametrize("where", ("input", "hx", "cx"))
@pytest.mark.parametrize("bidirectional", (False, True))
def test_in_one_place_of_an_argument(kernel, dtype, bad, where, bidirectional):
    case = case_of(kernel, bidirectional=bidirectional)
    leaves = make_leaves(case, dtype)
    if where not in leaves:
        where = "hx"
    leaves[where][leaves[where].shape[0] // 2, 2, 1] = bad
    theirs, ours = pair(case, dtype)
    with torch.no_grad():
        expected, actual = call(theirs, leaves), call(ours, leaves)
    finals = [(expected[1], actual[1])] if torch.is_tensor(expected[1]) else zip(expected[1], actual[1], strict=True)
    for theirs_value, ours_value in ((expected[0], actual[0]), *finals):
        assert torch.equal(pattern(theirs_value), pattern(ours_value))
        finite = theirs_value.isfinite()
        torch.testing.assert_close(theirs_value[finite], ours_value[finite])
    # One row of the batch is ill; the others never notice.
    others = [b for b in range(case.batch) if b != 2]
    assert actual[0][:, others].isfinite().all()


@by_kernel
@by_dtype
def test_in_a_weight(kernel, dtype):
    case = case_of(kernel)
    theirs, ours = pair(case, dtype)
    leaves = make_leaves(case, dtype)
    with torch.no_grad():
        for module in (theirs, ours):
            module.weight_hh_l0[4, 1] = float("nan")
        expected, actual = call(theirs, leaves)[0], call(ours, leaves)[0]
    assert torch.equal(pattern(expected), pattern(actual))


@by_kernel
@by_dtype
def test_gradients_of_an_ill_row(kernel, dtype):
    """A NaN in one row's input reaches that row's gradients and the weights', and no other row's."""
    case = case_of(kernel, bidirectional=True)
    leaves = make_leaves(case, dtype)
    leaves["input"][2, 2, 1] = float("nan")
    theirs, ours = pair(case, dtype)
    expected = outputs_and_gradients(theirs, leaves, call)
    actual = outputs_and_gradients(ours, leaves, call)
    for name, value in expected.items():
        assert torch.equal(value.isnan(), actual[name].isnan()), name


@by_kernel
@by_dtype
def test_nan_upstream(kernel, dtype):
    """A NaN gradient arriving at one row goes back through that row alone."""
    case = case_of(kernel)
    leaves = make_leaves(case, dtype)
    upstream = torch.ones(case.seq, case.batch, 2 if kernel == "lstm_proj" else case.hidden_size, dtype=dtype)
    upstream[3, 4, 0] = float("nan")
    gradients = []
    for module in pair(case, dtype):
        value = leaves["input"].clone().requires_grad_()
        output = call(module, leaves | {"input": value})[0]
        gradients.append(torch.autograd.grad(output, value, upstream)[0])
    assert torch.equal(gradients[0].isnan(), gradients[1].isnan())
