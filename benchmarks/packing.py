"""What packing the recurrent weights costs in a short call, and gains. For the thresholds in csrc/cpu/tuning.h."""

from __future__ import annotations

import argparse
import ctypes

from compiled import compiled
from paired import compare

CELLS = {"RNN": 0, "LSTM": 2, "GRU": 3}  # as CellKind has them
SHAPES = [*((1, batch) for batch in (1, 2, 4, 8, 16, 32)), (2, 1), (4, 1), (8, 1), (16, 1)]  # T, B


def build() -> ctypes.CDLL:
    """packing.cpp and its functions' types."""
    passes = compiled("packing.cpp")
    passes.packing_make.argtypes = (ctypes.c_int, *[ctypes.c_int64] * 3)
    passes.packing_make.restype = ctypes.c_void_p
    passes.packing_run.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_bool, ctypes.c_bool)
    passes.packing_free.argtypes = (ctypes.c_void_p,)
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.05, help="for each figure (default: 0.05)")
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[64, 256, 512])
    args = parser.parse_args()
    passes = build()
    print("One thread, float32: the time with packed weights over that with weights in place, forward / backward")
    print("cell    H  " + "".join(f"  T={steps:<2} B={batch:<2} " for steps, batch in SHAPES))
    for cell, kind in CELLS.items():
        for hidden in args.hidden_sizes:
            figures = []
            for steps, batch in SHAPES:
                data = passes.packing_make(kind, steps, batch, hidden)

                def run(backward: bool, pack: bool, data: int = data, kind: int = kind) -> None:
                    passes.packing_run(data, kind, backward, pack)

                figures += [
                    compare(lambda b=b, run=run: run(b, False), lambda b=b, run=run: run(b, True), args.seconds).ratio
                    for b in (False, True)
                ]
                passes.packing_free(data)
            pairs = zip(figures[::2], figures[1::2], strict=True)
            print(f"{cell:4} {hidden:5}  " + "".join(f"{forward:5.2f} / {back:4.2f}" for forward, back in pairs))


if __name__ == "__main__":
    main()
