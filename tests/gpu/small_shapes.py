"""Every cell, precision and path, forward and backward, on shapes so small that compute-sanitizer ends in minutes.

A plain script: make gpu-sanitize runs it, each path forced. Rows and hidden units that do not fill their tile, more
than one tile of each, more than one block; results are checked, so that what the sanitizer saw is what is right.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from cases import KERNELS
from drawn import Draw, case_of
from machine import missing, the_device
from precisions import PRECISIONS
from torch import nn

import fastrnn

# (H, B): four blocks of 16 units, which may split a product, and two tiles of rows; and what no tile fits.
SIZES = ((64, 18), (5, 3))
# The environment that has a path taken, whatever the plan would choose.
WAYS = {
    "streamed": {"FASTRNN_CUDA_PATH": "streamed"},
    "persistent": {"FASTRNN_CUDA_PATH": "persistent", "FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT": str(1 << 60)},
    "split": {"FASTRNN_CUDA_PATH": "persistent", "FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT": "0"},
    "cluster": {"FASTRNN_CUDA_PATH": "cluster"},
}
LAYOUTS = ("batched", "lengths_gpu", "lengths_cpu", "packed")
STEPS = 4


def expected_paths(way, case, precision):
    """Those that a GPU with room for it takes; older ones than Hopper have no clusters."""
    path = WAYS[way]["FASTRNN_CUDA_PATH"]
    if not precision.on_chip or case.hidden_size % 16 or "proj_size" in case.options:
        return {"streamed"}
    return {path, "streamed"} if torch.cuda.get_device_capability() < (9, 0) else {path}


def check(way, case, precision, device):
    precision.switch()
    draw = Draw.of(case, precision.dtype)
    module, args, kwargs = draw.arguments(precision, device)
    paths = {row.path for row in fastrnn.explain(module, *args, **kwargs).rows}
    if device.type == "cuda":
        assert paths <= expected_paths(way, case, precision), f"{way} {case} {precision.name}: {paths}"
    with torch.no_grad():
        module(*args, **kwargs)  # inference keeps nothing: other writes
    exact, ours = draw.results(nn, torch.float64, "cpu"), draw.results(fastrnn, precision.dtype, device)
    for name, reference in exact.items():
        error = (ours[name] - reference).norm() / max(1.0, reference.norm())
        assert error <= 8 * precision.eps, f"{case} {precision.name}: {name} is off by {error / precision.eps:.1f} eps"
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    why = missing()
    if why:
        sys.exit(why)
    torch.manual_seed(0)
    device = the_device()
    os.environ["FASTRNN_CUDA_VERIFY"] = "0"  # the path is forced, and its results are checked here
    os.environ["FASTRNN_CUDA_WAIT_SECONDS"] = "300"  # the sanitizer is slow
    for way, kernel, name in itertools.product(args.ways, args.kernels, args.precisions):
        precision = PRECISIONS[name]
        if way != "streamed" and not precision.on_chip:
            continue
        for variable in WAYS["split"]:
            os.environ.pop(variable, None)
        os.environ.update(WAYS[way])
        paths = set()
        for (hidden, batch), layout in itertools.product(SIZES, LAYOUTS):
            case = case_of(kernel, hidden, batch, STEPS, layout, input_size=3, bidirectional=True)
            paths |= check(way, case, precision, device)
        print(way, kernel, precision.name, *sorted(paths), flush=True)


if __name__ == "__main__":
    main()
