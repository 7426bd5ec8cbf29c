"""What every client shares: one way to train with torch.nn's layers and with fastrnn's, from one seed."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # else the first optimizer step imports it, within the time that is measured
import without_cuda
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils.rnn import PackedSequence
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

import fastrnn
from fastrnn.modules.base import Cell, Layer

SEED = 0
# Calls of each layer whose outputs are kept: a cell's second one has a state.
CALLS = 3
Train = Callable[[], list[float]]

# Before a client goes on to import its project.
without_cuda.do_without()


@dataclass(frozen=True)
class Impl:
    """Whose layers a run takes. What a project does with them is the same text for all."""

    name: str
    ways: list[str] = field(default_factory=list)  # in which it adopted them

    @property
    def ours(self) -> bool:
        return self.name != "torch"

    def convert(self, model: nn.Module) -> nn.Module:
        self._note("convert")
        return fastrnn.convert(model) if self.ours else model

    def patched(self, *packages: str) -> contextlib.AbstractContextManager[Any]:
        self._note("patched")
        return fastrnn.patched(*packages) if self.ours else contextlib.nullcontext()

    def check(self, model: nn.Module) -> None:
        """That the model has the layers it is meant to have, and no others."""
        recurrent = [module for module in model.modules() if isinstance(module, (nn.RNNBase, nn.RNNCellBase))]
        ours = [module for module in recurrent if isinstance(module, (Layer, Cell))]
        assert recurrent, "the model has no recurrent layer"
        assert len(ours) == (len(recurrent) if self.ours else 0), f"{len(ours)} of {len(recurrent)}"

    def _note(self, way: str) -> None:
        if way not in self.ways:
            self.ways.append(way)


class Record:
    """What the layers gave before anything was learned, and the gradients that the optimizers then saw."""

    def __init__(self) -> None:
        self.outputs: list[list[Tensor]] = []
        self.gradients: list[list[Tensor]] = []
        self._calls: dict[nn.Module, int] = {}
        self._stepped: set[Optimizer] = set()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        self._forward = register_module_forward_hook(self._after_call)
        # After the step, for what is given a closure computes its gradients inside.
        self._step = register_optimizer_step_post_hook(self._after_step)
        try:
            yield
        finally:
            self._forward.remove()
            self._step.remove()

    def _after_call(self, module: nn.Module, args: Any, output: Any) -> None:
        if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            return
        calls = self._calls.get(module, 0)
        leaves = [leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in tree_leaves(output)]
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if calls < CALLS and not any(map(_has_no_numbers, tensors)):
            self._calls[module] = calls + 1
            self.outputs.append([tensor.detach().clone() for tensor in tensors])

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Of each optimizer's first step, until one steps again: some projects have one for each parameter."""
        self._forward.remove()
        if optimizer in self._stepped:
            self._step.remove()
            return
        self._stepped.add(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.gradients.append([weight.grad.to_dense().clone() for weight in weights if weight.grad is not None])


def _has_no_numbers(tensor: Tensor) -> bool:
    """Whether it stands for a shape, or is what vmap hands around."""
    return tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def main(prepare: Callable[[Impl], Train], impls: Sequence[str] = ("torch", "fastrnn")) -> None:
    """Build with `prepare`, train with what it returns, and print losses and seconds as JSON, in the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--impl", choices=impls, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--without-onednn", action="store_true", help="torch.nn by other kernels: what rounding does")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what was computed there, for torch.load")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.mkldnn.enabled = not args.without_onednn
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    impl, record = Impl(args.impl), Record()
    train = prepare(impl)
    with record.recording():
        start = time.perf_counter()
        losses = train()
        seconds = time.perf_counter() - start
    if args.record:
        computed = {"losses": losses, "outputs": record.outputs, "gradients": record.gradients}
        torch.save({**computed, "seconds": seconds, "impls": list(impls), "ways": impl.ways}, args.record)
    print(json.dumps({"losses": losses, "seconds": seconds}))
