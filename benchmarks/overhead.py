"""What a call costs when there is almost nothing to compute: T = B = 1, H = 8, one thread, against torch.nn."""

from __future__ import annotations

import argparse

import torch
from paired import compare
from torch import nn

import fastrnn


def train(module: nn.Module, input: torch.Tensor, grad: torch.Tensor) -> None:
    module(input)[0].backward(grad)


def infer(module: nn.Module, input: torch.Tensor) -> None:
    with torch.no_grad():
        module(input)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line (default: 2)")
    parser.add_argument("--hidden-size", type=int, default=8, help="H, and the input's features (default: 8)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = args.hidden_size
    input, grad = torch.randn(1, 1, size), torch.ones(1, 1, size)
    print(f"torch {torch.__version__}, {fastrnn.explain(fastrnn.LSTM(size, size), input).rows[0].isa}, one thread")
    print("layer  mode       fastrnn    torch    fastrnn / torch (quartiles)")
    for name in ("RNN", "GRU", "LSTM"):
        ours, theirs = getattr(fastrnn, name)(size, size), getattr(nn, name)(size, size)
        for mode, run in (("inference", lambda m: infer(m, input)), ("training", lambda m: train(m, input, grad))):
            result = compare(lambda: run(ours), lambda: run(theirs), args.seconds)  # noqa: B023 - called at once
            print(
                f"{name:5}  {mode:9}  {result.ours * 1e6:5.1f} us  {result.other * 1e6:5.1f} us  "
                f"{1 / result.ratio:.2f} ({1 / result.high:.2f}-{1 / result.low:.2f})"
            )


if __name__ == "__main__":
    main()
