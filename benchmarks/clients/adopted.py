"""What every client shares: one way to train with torch.nn's layers and with fastrnn's, from one seed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import fastrnn
from fastrnn.modules.base import Layer

SEED = 0
Train = Callable[[], list[float]]


@dataclass(frozen=True)
class Impl:
    """Whose layers a run takes. What a project does with them is the same text for all."""

    name: str

    @property
    def ours(self) -> bool:
        return self.name != "torch"

    def convert(self, model: nn.Module) -> nn.Module:
        return fastrnn.convert(model) if self.ours else model

    def patched(self) -> contextlib.AbstractContextManager[None]:
        return fastrnn.patched() if self.ours else contextlib.nullcontext()

    def check(self, model: nn.Module) -> None:
        """That the model has the layers it is meant to have, and no others."""
        recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
        ours = [module for module in recurrent if isinstance(module, Layer)]
        assert recurrent, "the model has no recurrent layer"
        assert len(ours) == (len(recurrent) if self.ours else 0), f"{len(ours)} of {len(recurrent)}"


def main(prepare: Callable[[Impl], Train], impls: Sequence[str] = ("torch", "fastrnn")) -> None:
    """Build with `prepare`, train with what it returns, and print losses and seconds as JSON, in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--impl", choices=impls, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    train = prepare(Impl(args.impl))
    start = time.perf_counter()
    losses = train()
    print(json.dumps({"losses": losses, "seconds": time.perf_counter() - start}))
