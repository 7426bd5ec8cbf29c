"""Every cell, precision and path, forward and backward, on shapes so small that compute-sanitizer ends in minutes.

A plain script: make gpu-sanitize runs it. Rows and hidden units that do not fill their tile, more than one tile of
each, more than one block; results are checked, so that what the sanitizer saw is what is right.
"""

import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from cases import KERNELS
from machine import missing, the_device
from measure import Draw, allowed_paths, case_of
from precisions import PRECISIONS
from torch import nn

import fastrnn

# (H, B): two blocks of 16 units and two tiles of rows; and what no tile fits.
SIZES = ((32, 18), (5, 3))
LAYOUTS = ("batched", "lengths_gpu", "lengths_cpu", "packed")
STEPS = 4


def check(case, precision, device):
    precision.switch()
    draw = Draw.of(case, precision.dtype)
    module, args, kwargs = draw.arguments(precision, device)
    paths = {row.path for row in fastrnn.explain(module, *args, **kwargs).rows}
    if device.type == "cuda":
        assert paths <= allowed_paths(case, precision), f"{case} {precision.name}: {paths}"
    with torch.no_grad():
        module(*args, **kwargs)  # inference keeps nothing: other writes
    exact, ours = draw.results(nn, torch.float64, "cpu"), draw.results(fastrnn, precision.dtype, device)
    for name, reference in exact.items():
        error = (ours[name] - reference).norm() / max(1.0, reference.norm())
        assert error <= 8 * precision.eps, f"{case} {precision.name}: {name} is off by {error / precision.eps:.1f} eps"
    return paths


def main():
    why = missing()
    if why:
        sys.exit(why)
    torch.manual_seed(0)
    device = the_device()
    for kernel, precision in itertools.product(KERNELS, PRECISIONS.values()):
        paths = set()
        for (hidden, batch), layout in itertools.product(SIZES, LAYOUTS):
            case = case_of(kernel, hidden, batch, STEPS, layout, input_size=3, bidirectional=True)
            paths |= check(case, precision, device)
        print(kernel, precision.name, *sorted(paths), flush=True)


if __name__ == "__main__":
    main()
