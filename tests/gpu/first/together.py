"""What may hang: two kernels at once that fill the GPU. And what the host does not know: rows of different lengths."""

import ctypes
import itertools

import torch
from cases import LAYERS
from crowded import HIDDEN, HOWS
from crowded import run as run_crowd
from machine import REHEARSE
from small_shapes import WAYS

from first import fit, parity
from first.journal import Outcome

# Beside a kernel that keeps so many multiprocessors to itself for so long.
HELD, HELD_MILLISECONDS = 40, 5.0
RAGGED_SIZE, REHEARSED_RAGGED_SIZE = (256, 17), (64, 18)
RAGGED_LAYERS, REHEARSED_RAGGED_LAYERS = ("LSTM", "GRU"), ("GRU",)
RAGGED_PRECISIONS, LAYOUTS = ("bf16", "tf32"), ("packed", "lengths_gpu")


def items(rehearse):
    crowds = itertools.product((*HOWS, "held"), LAYERS[::-1], HIDDEN)
    layers = REHEARSED_RAGGED_LAYERS if rehearse else RAGGED_LAYERS
    ragged = itertools.product(WAYS, layers, RAGGED_PRECISIONS, LAYOUTS)
    return [f"{how} {layer} {hidden}" for how, layer, hidden in crowds] + [
        f"{way} {layer} {name} {layout}" for way, layer, name, layout in ragged
    ]


def run(item):
    first, layer, *others = item.split()
    if first in WAYS:
        name, layout = others
        return parity.check(first, layer, name, *(REHEARSED_RAGGED_SIZE if REHEARSE else RAGGED_SIZE), layout)
    if REHEARSE:
        return Outcome("not here", "the emulated GPU has one stream")
    why = run_crowd(first, layer, int(others[0]), hold if first == "held" else None)
    return Outcome("not taken" if why else "passed", why)


def hold():
    hold_some = fit.library().fastrnn_hold
    hold_some.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_double)
    error = hold_some(torch.cuda.current_stream().cuda_stream, HELD, HELD_MILLISECONDS)
    if error:
        raise RuntimeError(f"CUDA error {error}")
