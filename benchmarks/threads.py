"""What a second thread is worth: the same call on one and on two. For the thresholds in csrc/cpu/dispatch.cpp."""

from __future__ import annotations

import argparse

import torch
from paired import compare

import fastrnn

# (T, B, H): around the thresholds, then well above them.
SHAPES = [
    *((50, 1, hidden) for hidden in (48, 64, 96, 128, 256, 512)),
    *((50, batch, hidden) for batch in (4, 8, 16, 64) for hidden in (32, 64, 128, 256, 512)),
    *((steps, 8, 32) for steps in (1, 4, 8, 16, 32)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each line (default: 0.5)")
    parser.add_argument("--threads", type=int, default=2, help="to compare with one (default: 2)")
    args = parser.parse_args()
    print("LSTM inference, float32, I = H")
    print("   T    B     H   multiply-adds a step   in all        one thread / several (quartiles)   plan")
    for steps, batch, hidden in SHAPES:
        layer, input = fastrnn.LSTM(hidden, hidden), torch.randn(steps, batch, hidden)

        def run(threads: int, layer: fastrnn.LSTM = layer, input: torch.Tensor = input) -> None:
            torch.set_num_threads(threads)
            with torch.no_grad():
                layer(input)

        result = compare(lambda run=run: run(args.threads), lambda run=run: run(1), args.seconds)
        torch.set_num_threads(args.threads)
        row = fastrnn.explain(layer, input).rows[0]
        macs = batch * 4 * hidden * hidden
        print(
            f"{steps:4} {batch:4} {hidden:5} {macs:22,} {steps * macs:13,}   {result.ratio:5.2f} "
            f"({result.low:.2f}-{result.high:.2f})   {row.threads} threads: {row.reason}"
        )


if __name__ == "__main__":
    main()
