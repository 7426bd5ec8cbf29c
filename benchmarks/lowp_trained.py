"""What rounded weights do to models that were trained: the loss with pack(model, dtype) against the loss in float32.

The models are those of examples/ and of the demo, each trained here for some minutes. A loss is the mean over the same
drawn batches, for the demo's model that of its held-out text; beside int8's stands that of torch's quantize_dynamic.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import torch
from report import Table
from torch import nn

import fastrnn

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
TASKS = {"sentiment": "Sentiment", "digits": "Digits", "sunspots": "Sunspots"}
BATCHES = 50  # of a task's loss
CHAR_STEPS, CHAR_BATCH, CHAR_LENGTH, CHAR_HIDDEN = 600, 32, 100, 256

Loss = Callable[[nn.Module], float]


def trained_task(name: str, steps: int | None) -> tuple[nn.Module, Loss]:
    """A model of examples/, and its loss."""
    running, module = importlib.import_module("running"), importlib.import_module(name)
    task = getattr(module, TASKS[name])()
    torch.manual_seed(0)
    model, steps = task.build(fastrnn), steps or task.steps
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = task.learning_rate * running.decay(step, steps)
        optimizer.zero_grad()
        task.loss(model).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def loss(model: nn.Module) -> float:
        torch.manual_seed(1)
        return sum(task.loss(model).item() for _ in range(BATCHES)) / BATCHES

    return model, loss


def trained_characters(steps: int | None) -> tuple[nn.Module, Loss]:
    """The demo's model, and its loss on text it has not seen."""
    demo, running = importlib.import_module("char_rnn"), importlib.import_module("running")
    text = demo.Text(CHAR_BATCH, CHAR_LENGTH)
    torch.manual_seed(0)
    model = demo.CharModel(fastrnn.LSTM, len(text.vocabulary), CHAR_HIDDEN, 1)
    runner, steps = demo.Runner(model, torch.optim.Adam(model.parameters())), steps or CHAR_STEPS
    for step in range(steps):
        runner.step(*text.window(step), learning_rate=4e-3 * running.decay(step, steps), clip=1.0)
    return model, lambda model: demo.held_out_loss(model, text)


def quantized_by_torch(model: nn.Module) -> nn.Module:
    """The model with its recurrent layers quantized, and no other."""
    kinds = {nn.LSTM, nn.GRU}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is being retired
        return torch.ao.quantization.quantize_dynamic(fastrnn.to_torch(copy.deepcopy(model)), kinds, dtype=torch.qint8)


def losses(model: nn.Module, loss: Loss) -> Iterator[tuple[str, float]]:
    """By what the weights were rounded to."""
    yield "float32", loss(model)
    for dtype in (torch.bfloat16, torch.int8):
        yield str(dtype).removeprefix("torch."), loss(fastrnn.pack(model, dtype))
    if hasattr(torch.ao.quantization, "quantize_dynamic"):
        yield "torch int8", loss(quantized_by_torch(fastrnn.unpack(model)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=["characters", *TASKS], default=["characters", *TASKS])
    parser.add_argument("--steps", type=int, help="of training (default: the example's own)")
    args = machine.begin(parser)
    sys.path.insert(0, str(EXAMPLES))
    table = Table("Loss, and how much larger than float32's", ["model", "weights", "loss", "larger by"])
    rows: list[dict[str, Any]] = []
    for name in args.models:
        try:
            model, loss = trained_characters(args.steps) if name == "characters" else trained_task(name, args.steps)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error.name} is not installed (make examples installs it)")
            continue
        with torch.no_grad():
            found = dict(losses(model.eval(), loss))
        for weights, value in found.items():
            change = value / found["float32"] - 1
            table.rows.append([name, weights, f"{value:.4f}", f"{change:+.2%}"])
            rows.append({"model": name, "dtype": weights, "loss": value, "change": change})
    table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
