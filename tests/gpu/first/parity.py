"""Each path, forced, against float64 on the same device: outputs and every gradient."""

import functools
import itertools
import os

import torch
from cases import LAYERS
from drawn import Draw, case_of, floating, kernel_of
from machine import REHEARSE, the_device
from precisions import PRECISIONS
from small_shapes import WAYS
from torch import nn

import fastrnn
from first.journal import Outcome

# (H, B): clusters of few and of many blocks, what only persistent kernels hold, rows that do not fill a tile; and what
# the emulated GPU has through in seconds.
SIZES = ((32, 18), (256, 16), (512, 17), (768, 16), (1024, 3), (1024, 16), (1024, 64))
REHEARSED_SIZES = ((64, 18),)
STEPS, REHEARSED_STEPS = 9, 3
INPUT_SIZE = 16
ON_CHIP = [name for name, precision in PRECISIONS.items() if precision.on_chip]

# In eps of what products take: the root of the mean square, as a share of the reference's, and the largest error, as a
# share of its largest value. Sums in float32 lose as they get longer; rounding to a shorter type outweighs that.
ALLOWED = {"f32": (24, 64)}
ALLOWED_ROUNDED = (2, 4)
ALLOWED_OF_ORACLE = 1e-10  # relative, of float64 on two devices


def items(rehearse):
    sizes = REHEARSED_SIZES if rehearse else SIZES
    oracles = [f"oracle {layer}" for layer in LAYERS]
    product = itertools.product(sizes, ON_CHIP[::-1], LAYERS[::-1], WAYS)
    return oracles + [f"{way} {layer} {name} {hidden}x{batch}" for (hidden, batch), name, layer, way in product]


def run(item):
    first, layer, *others = item.split()
    if first == "oracle":
        return check_oracle(layer)
    name, size = others
    hidden, batch = map(int, size.split("x"))
    return check(first, layer, name, hidden, batch)


def check_oracle(layer):
    """torch.nn in float64 on the device, which everything else is held against, against the CPU's."""
    draw = Draw.of(case_of(kernel_of(layer), 64, 16, STEPS, input_size=INPUT_SIZE), torch.float64)
    ours, expected = (draw.results(nn, torch.float64, device) for device in (the_device(), "cpu"))
    errors = [((ours[name] - exact).norm() / exact.norm()).item() for name, exact in expected.items()]
    wrong = not max(errors) <= ALLOWED_OF_ORACLE
    return Outcome("wrong" if wrong else "passed", "", {"error": max(errors)})


@functools.lru_cache(maxsize=1)
def drawn(layer, name, hidden, batch, layout):
    """A call and its exact results: the ways that follow one another share them."""
    steps = REHEARSED_STEPS if REHEARSE else STEPS
    case = case_of(kernel_of(layer), hidden, batch, steps, layout, input_size=INPUT_SIZE)
    draw = Draw.of(case, PRECISIONS[name].dtype)
    device = the_device()
    return draw, draw.results(nn, torch.float64, device, to=device)


def check(way, layer, name, hidden, batch, layout="batched"):
    precision, device = PRECISIONS[name], the_device()
    precision.switch()
    force(way)
    draw, exact = drawn(layer, name, hidden, batch, layout)
    module, args, kwargs = draw.arguments(precision, device)
    rows = fastrnn.explain(module, *args, **kwargs).rows
    taken = {row.pass_: path_of(row) for row in rows}
    if way not in taken.values():
        return Outcome("not taken", rows[-1].reason, {"taken": taken})
    ours = draw.results(fastrnn, precision.dtype, device, to=device)
    with torch.no_grad():  # inference keeps nothing: other writes
        inferred = floating(module(*args, **kwargs))[0].double()
    output = next(iter(exact))
    pairs = [("output of inference", inferred, exact[output]), *((key, ours[key], exact[key]) for key in exact)]
    lost = [key for key, actual, _ in pairs if not actual.isfinite().all()]
    if lost:
        return Outcome("failed", f"not finite: {', '.join(lost)}. {told_late(module, args, kwargs)}", {"taken": taken})
    return verdict(pairs, precision, taken)


def force(way):
    for variable in {name for environment in WAYS.values() for name in environment}:
        os.environ.pop(variable, None)
    os.environ.update(WAYS[way])


def told_late(module, args, kwargs):
    """What the next call says of a kernel that gave up waiting, if that is why."""
    try:
        module(*args, **kwargs)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def path_of(row):
    splits = row.pass_ == "backward" and "split" in row.reason
    return "split" if splits else row.path


def verdict(pairs, precision, taken):
    """By the result that is nearest to what is allowed, or furthest beyond."""
    allowed, allowed_largest = ALLOWED.get(precision.name, ALLOWED_ROUNDED)
    shares = []
    for name, actual, exact in pairs:
        difference = actual - exact
        error = (difference.norm() / exact.norm().clamp(min=1.0)).item() / precision.eps
        largest = (difference.abs().max() / exact.abs().max()).item() / precision.eps
        shares.append((max(error / allowed, largest / allowed_largest), name, error, largest))
    share, name, error, largest = max(shares)
    figures = {"taken": taken, "tensor": name, "error_eps": error, "largest_eps": largest}
    if share <= 1:
        return Outcome("passed", "", figures)
    return Outcome("wrong", f"{name} is off by {error:.2g} eps in the mean, {largest:.2g} eps at most", figures)
