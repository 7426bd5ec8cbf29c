"""Train a character model on English text with torch.nn and with fastrnn, side by side, and compare the two.

The text is the Python documentation that ships with every Python (`pydoc_data.topics`, about 0.5 MB); its last tenth is
held out. Both models start from the same seed and take turns, one step each on the same characters, and who goes first
alternates, so that the ratio of each pair of steps is fair on a busy machine too. A step is all of it: forward,
backward, gradient clipping and optimizer.

At the end the losses are compared, and the exit status is 1 if they do not agree or the model has not learned.
Ctrl-C saves a checkpoint, stops, and prints the command that goes on from there.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from char_report import FULL_RUN_STEPS, Result, draw, print_checks, print_table
from running import StopOnSignal, decay, save_checkpoint, stopped
from torch import Tensor, nn
from tqdm import tqdm

MODULES = {"torch": "torch.nn", "fastrnn": "fastrnn"}  # where each --impl finds its layers
LAYERS = {"rnn": "RNN", "lstm": "LSTM", "gru": "GRU"}  # what they are called there, by --cell

SAVE_EVERY = 200  # steps
EVALUATION_WINDOW = 512  # characters
SAMPLE_LENGTH = 400  # characters

State = Any  # a layer's: None, hx, or the LSTM's (hx, cx)


class Text:
    """The text as numbers: `batch` streams to train on, each read in windows of `length`, and a held-out tenth."""

    def __init__(self, batch: int, length: int) -> None:
        from pydoc_data.topics import topics

        text = "\n\n".join(topics[name] for name in sorted(topics))
        self.vocabulary = sorted(set(text))
        self.index = {character: i for i, character in enumerate(self.vocabulary)}
        ids = torch.tensor([self.index[character] for character in text])
        held_out = len(ids) // 10
        self.length = length
        self.streams = self._streams(ids[:-held_out], batch)
        self.held_out = self._streams(ids[-held_out:], 8)
        self.windows = (len(self.streams) - 1) // length
        if self.windows < 1:
            sys.exit(f"char_rnn: {len(ids)} characters are too few for --batch {batch} and --length {length}")

    @staticmethod
    def _streams(ids: Tensor, count: int) -> Tensor:
        """(steps, count): the text cut into `count` pieces that are read in parallel."""
        return ids[: len(ids) // count * count].view(count, -1).t().contiguous()

    def window(self, step: int) -> tuple[Tensor, Tensor, bool]:
        """Step's input and target, (length, batch) each, and whether it begins the text anew."""
        start = step % self.windows * self.length
        return (
            self.streams[start : start + self.length],
            self.streams[start + 1 : start + self.length + 1],
            start == 0,
        )


class CharModel(nn.Module):
    """Characters in, logits of the next character out."""

    def __init__(self, layer: type[nn.Module], characters: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.rnn = layer(32, hidden_size, num_layers)
        self.head = nn.Linear(hidden_size, characters)

    def forward(self, input: Tensor, hx: State = None) -> tuple[Tensor, State]:
        output, hx = self.rnn(self.embedding(input), hx)
        return self.head(output), hx


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Nats a character."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())


def detached(hx: State) -> State:
    """The state's values without their history: where backpropagation through time is truncated."""
    return tuple(map(Tensor.detach, hx)) if isinstance(hx, tuple) else hx.detach()


@dataclass
class Runner:
    """One implementation's model, and what became of it."""

    model: CharModel
    optimizer: torch.optim.Optimizer
    hx: State = None
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def step(self, input: Tensor, target: Tensor, restart: bool, learning_rate: float, clip: float) -> None:
        """Train on one window. The state is carried from the window before unless `restart`."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        hx = None if restart else self.hx
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        logits, hx = self.model(input, hx)
        loss = cross_entropy(logits, target)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - begin)
        self.losses.append(loss.item())
        self.hx = detached(hx)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hx": self.hx,
            "losses": self.losses,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.hx, self.losses, self.seconds = state["hx"], state["losses"], state["seconds"]


def make_runners(args: argparse.Namespace, text: Text) -> dict[str, Runner]:
    """A runner for each implementation asked for, all with the same weights: the seed alone must see to that."""
    runners = {}
    for impl in MODULES if args.impl == "both" else (args.impl,):
        layer = getattr(importlib.import_module(MODULES[impl]), LAYERS[args.cell])
        torch.manual_seed(args.seed)
        model = CharModel(layer, len(text.vocabulary), args.hidden_size, args.num_layers)
        runners[impl] = Runner(model, torch.optim.Adam(model.parameters(), lr=args.lr))
    if len(runners) == 2:
        pairs = zip(*(runner.model.parameters() for runner in runners.values()), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            sys.exit("char_rnn: FAILED: the same seed gives torch.nn and fastrnn different weights")
    return runners


# Checkpoints


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What a checkpoint belongs to: with any other value of these it would be another run."""
    names = ("impl", "cell", "steps", "batch", "length", "hidden_size", "num_layers", "lr", "clip", "seed")
    return {name: getattr(args, name) for name in names}


def save(path: Path, args: argparse.Namespace, runners: dict[str, Runner]) -> None:
    """Write the whole run to `path`."""
    states = {impl: runner.state_dict() for impl, runner in runners.items()}
    save_checkpoint(path, {"settings": settings(args), "runners": states})


def load_checkpoint(path: Path, args: argparse.Namespace, runners: dict[str, Runner]) -> int:
    """Put the runners where the checkpoint left them; the number of steps they have taken."""
    if not path.exists():
        sys.exit(f"char_rnn: nothing to resume: {path} does not exist")
    state = torch.load(path, weights_only=True)
    differences = [
        f"--{name.replace('_', '-')} {state['settings'].get(name)}, not {value}"
        for name, value in settings(args).items()
        if state["settings"].get(name) != value
    ]
    if differences:
        sys.exit(f"char_rnn: {path} is of another run: it had {'; '.join(differences)}")
    for impl, runner in runners.items():
        runner.load_state_dict(state["runners"][impl])
    return len(next(iter(runners.values())).losses)


# Training


def train(args: argparse.Namespace, text: Text, runners: dict[str, Runner], first: int, checkpoint: Path) -> bool:
    """Take the steps from `first` on; False if a signal stopped them. The checkpoint is up to date either way."""
    quiet = not sys.stderr.isatty()  # in a log, a line now and then
    bar = tqdm(total=args.steps, initial=first, unit="step", mininterval=15 if quiet else 0.2, dynamic_ncols=not quiet)
    with StopOnSignal() as stop, bar:
        for step in range(first, args.steps):
            order = list(runners.values())
            for runner in order if step % 2 == 0 else reversed(order):
                runner.step(*text.window(step), args.lr * decay(step, args.steps), args.clip)
            bar.set_postfix({f"{impl} loss": f"{r.losses[-1]:.4f}" for impl, r in runners.items()}, refresh=False)
            bar.update()
            if stop.requested or (step + 1) % SAVE_EVERY == 0 or step + 1 == args.steps:
                save(checkpoint, args, runners)
            if stop.requested:
                return False
    return True


@torch.no_grad()
def held_out_loss(model: CharModel, text: Text) -> float:
    """Nats a character on the text that no step has seen."""
    total, hx = 0.0, None
    inputs, targets = text.held_out[:-1], text.held_out[1:]
    for input, target in zip(inputs.split(EVALUATION_WINDOW), targets.split(EVALUATION_WINDOW), strict=True):
        logits, hx = model(input, hx)
        total += cross_entropy(logits, target).item() * target.numel()
    return total / targets.numel()


@torch.no_grad()
def sample(model: CharModel, text: Text, prompt: str, temperature: float, seed: int) -> str:
    """The prompt, and how the model goes on."""
    generator = torch.Generator().manual_seed(seed)
    characters = list(prompt)
    logits, hx = model(torch.tensor([[text.index[c]] for c in characters]))
    for _ in range(SAMPLE_LENGTH):
        probabilities = (logits[-1, 0] / temperature).softmax(0)
        next_id = torch.multinomial(probabilities, 1, generator=generator)
        characters.append(text.vocabulary[int(next_id)])
        logits, hx = model(next_id.view(1, 1), hx)
    return "".join(characters)


def report(args: argparse.Namespace, text: Text, runners: dict[str, Runner]) -> bool:
    """Print and draw what came out; whether every check passed."""
    results = {}
    for impl, runner in runners.items():
        name = f"{MODULES[impl].removeprefix('torch.')}.{LAYERS[args.cell]}"
        held_out = held_out_loss(runner.model, text)
        results[impl] = Result(name, runner.losses, runner.seconds, held_out, args.batch * args.length)
    print_table(results)
    model = runners[list(runners)[-1]].model
    print(f"\nA sample:\n{'-' * 80}\n{sample(model, text, args.prompt, args.temperature, args.seed)}\n{'-' * 80}\n")
    passed = print_checks(results)
    picture = args.out / f"char_{args.cell}.png"
    draw(picture, results)
    print(f"\npicture: {picture}")
    return passed


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"Runs of fewer than {FULL_RUN_STEPS} steps print the figures and judge nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--impl", choices=[*MODULES, "both"], default="both", help="whose layer to train (default: %(default)s)")
    option("--cell", choices=LAYERS, default="lstm", help="(default: %(default)s)")
    option("--steps", type=int, default=1000, help="(default: %(default)s)")
    option("--batch", type=int, default=32, help="streams read in parallel (default: %(default)s)")
    option("--length", type=int, default=64, help="characters a step, for each stream (default: %(default)s)")
    option("--hidden-size", type=int, default=128, help="(default: %(default)s)")
    option("--num-layers", type=int, default=1, help="(default: %(default)s)")
    option("--lr", type=float, default=2e-3, help="Adam's learning rate at the start (default: %(default)s)")
    option("--clip", type=float, default=1.0, help="largest norm of the gradient (default: %(default)s)")
    option("--seed", type=int, default=0, help="of weights and sample (default: %(default)s)")
    option("--threads", type=int, help="torch's number of threads (default: torch's own choice)")
    option("--prompt", default="The ", help="what the sample begins with (default: %(default)r)")
    option("--temperature", type=float, default=0.7, help="of the sample (default: %(default)s)")
    option("--out", type=Path, default=Path(__file__).resolve().parent / "out", help="folder (default: %(default)s)")
    option("--resume", action="store_true", help="go on from the checkpoint in --out")
    args = parser.parse_args(argv)
    for name in ("steps", "batch", "length", "hidden_size", "num_layers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    text = Text(args.batch, args.length)
    unknown = set(args.prompt) - set(text.index)
    if unknown or not args.prompt:
        sys.exit(f"char_rnn: --prompt must be made of characters in the text; these are not: {sorted(unknown)}")
    runners = make_runners(args, text)
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / f"char_{args.cell}.pt"
    first = load_checkpoint(checkpoint, args, runners) if args.resume else 0
    print(f"{text.streams.numel():,} characters to train on, {text.held_out.numel():,} held out")
    if not train(args, text, runners, first, checkpoint):
        print(stopped(checkpoint))
        return 130
    return 0 if report(args, text, runners) else 1


if __name__ == "__main__":
    sys.exit(main())
