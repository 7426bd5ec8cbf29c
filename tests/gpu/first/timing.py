"""LSTM and GRU against torch.nn, and the chosen path against the streamed one, by benchmarks/gpu.py.

Forward as training has it; backward is what training takes beyond that.
"""

import itertools
import os
from argparse import Namespace

import gpu
import torch

from first.journal import Outcome

REHEARSE = os.environ.get("FASTRNN_REHEARSE") == "1"

# What torch.nn is fastest at comes first, and so do the shapes that are asked about most.
LAYERS, PRECISIONS = ("LSTM", "GRU"), ("f16", "bf16", "tf32")
BATCHES, HIDDEN = (16, 64, 1), (1024, 512, 256, 768)
STEPS = 512
SECONDS = 0.08  # for each comparison


def items(rehearse):
    if rehearse:
        return [f"{layer} tf32 {case.hidden_size}x{case.batch}" for layer in LAYERS for case in gpu.REHEARSED]
    product = itertools.product(PRECISIONS, BATCHES, HIDDEN, LAYERS)
    return [f"{layer} {name} {hidden}x{batch}" for name, batch, hidden, layer in product]


def run(item):
    layer, name, size = item.split()
    hidden, batch = map(int, size.split("x"))
    case = gpu.square(gpu.REHEARSED[0].steps if REHEARSE else STEPS, batch, hidden)
    forward, both = (measure(gpu.Problem(layer, name, mode, case)) for mode in ("forward", "training"))
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    row = both["torch.nn"]
    figures = {"path": row.path, "host_us": row.host_us, "kernel": row.other_kernel}
    wrong = [other for other in both if not all(gpu.is_right(rows[other]) for rows in (forward, both) if other in rows)]
    if wrong:
        return Outcome("wrong", f"results differ from those of {' and '.join(wrong)}", figures)
    figures["forward"], whole = times(forward), times(both)
    figures["backward"] = {whose: us - figures["forward"][whose] for whose, us in whole.items()}
    figures["predicted"] = {"forward": forward["torch.nn"].predicted_us_per_step, "both": row.predicted_us_per_step}
    return Outcome(figures=figures)


def measure(problem):
    """The benchmark's rows by what ours was timed against; none against the streamed path where that was chosen."""
    rows = {}
    for other in ("torch.nn", "streamed"):
        device = "cpu" if REHEARSE else "cuda"
        rows[other] = gpu.measure(
            problem, Namespace(device=device, paths=other == "streamed", rehearse=False, seconds=SECONDS)
        )
    return {other: row for other, row in rows.items() if row}


def times(rows):
    """Microseconds of a step, by whose they are."""
    return {"ours": rows["torch.nn"].ours_us_per_step, **{other: row.other_us_per_step for other, row in rows.items()}}
