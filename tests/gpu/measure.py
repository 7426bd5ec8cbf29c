"""How far results on the device are from float64's, fastrnn's and torch.nn's, and which path a call takes."""

from collections import defaultdict

import pytest
import torch
from cases import assert_same, case_tolerance
from drawn import Draw, floating
from machine import REHEARSE, is_hopper
from test_accuracy import FACTOR, FLOOR_ULP
from torch import nn

import fastrnn

needs_gpu = pytest.mark.skipif(REHEARSE, reason="the CPU has no streams, graphs or memory of its own")


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
