"""What a second thread is worth: the same call on one and on two. For the thresholds in csrc/cpu/tuning.h."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from paired import compare

import fastrnn

# (T, B, H): around the thresholds, then well above them.
SHAPES = [
    *((50, 1, hidden) for hidden in (48, 64, 96, 128, 256, 512)),
    *((50, batch, hidden) for batch in (4, 8, 16, 64) for hidden in (32, 64, 128, 256, 512)),
    *((steps, 8, 32) for steps in (1, 4, 8, 16, 32)),
]
# Of bidirectional layers: where a direction has too little work for two threads, then around the cache's size.
BIDIRECTIONAL_SHAPES = [
    *((50, 1, hidden) for hidden in (16, 24, 32, 48, 64, 96, 128, 192, 256, 288, 320, 360, 400, 512)),
    *((50, batch, hidden) for batch in (4, 7, 16) for hidden in (32, 64, 128, 256, 320, 360)),
]
# Of stacked layers: steps too short to divide, few and many of them, and some that are not.
STACKED_SHAPES = [
    *((100, batch, hidden) for batch in (1, 4, 7) for hidden in (32, 64, 128, 256)),
    *((steps, batch, hidden) for steps in (256, 1000, 4000) for batch, hidden in ((1, 32), (1, 64), (4, 32), (4, 64))),
]


def worth(call: Callable[[], object], threads: int, seconds: float) -> str:
    """One thread's time over that of several."""

    def run(threads: int) -> None:
        torch.set_num_threads(threads)
        with torch.no_grad():
            call()

    result = compare(lambda: run(threads), lambda: run(1), seconds)
    torch.set_num_threads(threads)
    return f"{result.ratio:5.2f} ({result.low:.2f}-{result.high:.2f})"


def one_direction(threads: int, seconds: float) -> None:
    print("   T    B     H   multiply-adds a step   in all        one thread / several (quartiles)   plan")
    for steps, batch, hidden in SHAPES:
        layer, input = fastrnn.LSTM(hidden, hidden), torch.randn(steps, batch, hidden)
        ratio = worth(lambda layer=layer, input=input: layer(input), threads, seconds)
        row = fastrnn.explain(layer, input).rows[0]
        macs = batch * 4 * hidden * hidden
        print(
            f"{steps:4} {batch:4} {hidden:5} {macs:22,} {steps * macs:13,}   {ratio}   "
            f"{row.threads} threads: {row.reason}"
        )


def two_directions(threads: int, seconds: float) -> None:
    """The plans of a bidirectional layer, and of two layers of one direction for the same work one after the other."""
    print("   T    B     H       weights   bidirectional       two layers          plan / plan of each layer")
    for steps, batch, hidden in BIDIRECTIONAL_SHAPES:
        input = torch.randn(steps, batch, hidden)
        both = fastrnn.LSTM(hidden, hidden, bidirectional=True)
        first, second = fastrnn.LSTM(hidden, hidden), fastrnn.LSTM(hidden, hidden)
        at_once = worth(lambda both=both, input=input: both(input), threads, seconds)
        in_turn = worth(lambda a=first, b=second, input=input: (a(input), b(input)), threads, seconds)
        reasons = [fastrnn.explain(layer, input).rows[0].reason for layer in (both, first)]
        print(
            f"{steps:4} {batch:4} {hidden:5} {16 * hidden * hidden:13,}   {at_once}   {in_turn}   {' / '.join(reasons)}"
        )


def train(layer: torch.nn.Module, input: torch.Tensor) -> torch.Tensor:
    """Forward and backward: the gradient of the input; the weights' is thrown away."""
    with torch.enable_grad():
        leaf = input.detach().requires_grad_()
        output, _ = layer(leaf)
        return torch.autograd.grad(output, [leaf, *layer.parameters()], output.detach())[0]


def stacked(threads: int, seconds: float) -> None:
    """The plans of stacked layers, and of as many single ones that run one after the other, inference and training."""
    print("   T    B     H  L   stacked             in turn             training, stacked   in turn             plan")
    for steps, batch, hidden in STACKED_SHAPES:
        for layers in (2, 3):
            input = torch.randn(steps, batch, hidden)
            whole = fastrnn.LSTM(hidden, hidden, layers)
            singles = [fastrnn.LSTM(hidden, hidden) for _ in range(layers)]
            ratios = [
                worth(lambda whole=whole, input=input: whole(input), threads, seconds),
                worth(lambda singles=singles, input=input: [each(input) for each in singles], threads, seconds),
                worth(lambda whole=whole, input=input: train(whole, input), threads, seconds),
                worth(lambda singles=singles, input=input: [train(each, input) for each in singles], threads, seconds),
            ]
            reasons = [fastrnn.explain(layer, input).rows[0].reason for layer in (whole, singles[0])]
            print(f"{steps:4} {batch:4} {hidden:5} {layers:2}   {'   '.join(ratios)}   {' / '.join(reasons)}")


TABLES = {"one": one_direction, "both": two_directions, "stacked": stacked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=TABLES, help="one of the tables, by default all")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each ratio (default: 0.5)")
    parser.add_argument("--threads", type=int, default=2, help="to compare with one (default: 2)")
    args = parser.parse_args()
    print("LSTM inference, float32, I = H")
    for name, table in TABLES.items():
        if args.only in (None, name):
            table(args.threads, args.seconds)


if __name__ == "__main__":
    main()
