"""What a layer that is more than torch.nn's costs: against the plain layer, and against the loop that it replaces.

The loop calls torch's own cells step by step, in the way of those who left nn.LSTM for it. Training: forward and
backward with the gradients of input and parameters.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass

import machine
import results
import torch
import torch.nn.functional as F
from paired import Paired, compare
from report import Table, milliseconds, times_as_fast
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from workloads import CELLS, Case

import fastrnn
from fastrnn import reference
from fastrnn._call.modifiers import per_unit_weights_joined
from fastrnn._ops import cells

CASES = (Case(100, 1, 128, 128), Case(100, 16, 128, 128), Case(512, 8, 64, 64))


@dataclass(frozen=True)
class Feature:
    """Constructor keywords, or what a call asks for; `most` is what it may cost, in times of the plain layer."""

    options: dict[str, object]
    most: float = 1.3
    asks: str = ""  # "resets" or "states"
    cells: tuple[str, ...] = CELLS


FEATURES = {
    "resets": Feature({}, 1.1, asks="resets"),
    "return_states": Feature({}, asks="states", cells=("LSTM",)),
    "tbptt_steps": Feature({"tbptt_steps": 25}),
    "state_grad_clip": Feature({"state_grad_clip": 1.0}),
    "zoneout": Feature({"zoneout": 0.1}),
    "weight_dropout": Feature({"weight_dropout": 0.3}),
    "variational_dropout": Feature({"variational_dropout": 0.3}),
    "num_heads": Feature({"num_heads": 4}),
    "recompute": Feature({"recompute": True}, 1.5, cells=("GRU", "LSTM")),
    "peephole": Feature({"peephole": True}, cells=("LSTM",)),
    "coupled": Feature({"coupled": True}, cells=("LSTM",)),
    "reset_before": Feature({"reset_after": False}, 1.8, cells=("GRU",)),
    "layer_norm": Feature({"layer_norm": True}, 1.6),
}
# Those for which torch has no cell.
VARIANTS = ("peephole", "coupled", "reset_after", "layer_norm")

STEPS: dict[str, Callable[..., Tensor | tuple[Tensor, Tensor]]] = {
    "RNN": torch.rnn_tanh_cell,
    "GRU": torch.gru_cell,
    "LSTM": torch.lstm_cell,
}


class Loop(nn.Module):
    """The same with torch's cells, a step at a time."""

    def __init__(self, cell: str, case: Case, feature: Feature) -> None:
        super().__init__()
        self.step, self.feature, self.states = STEPS[cell], feature, 2 if cell == "LSTM" else 1
        weights = getattr(nn, cell)(case.input_size, case.hidden_size)
        self.weights = nn.ParameterList(weights.parameters())
        self.heads = int(feature.options.get("num_heads", 1))  # type: ignore[call-overload]
        if self.heads > 1:
            self.weights[1] = nn.Parameter(self.weights[1].detach()[:, : case.hidden_size // self.heads].clone())

    def forward(self, input: Tensor, resets: Tensor | None) -> Tensor:
        options = self.feature.options
        weights = list(self.weights)
        hidden = weights[0].shape[0] // {"rnn_tanh_cell": 1, "gru_cell": 3, "lstm_cell": 4}[self.step.__name__]
        if self.heads > 1:
            blocks = weights[1].unflatten(0, (-1, self.heads, hidden // self.heads))
            weights[1] = torch.cat([torch.block_diag(*gate) for gate in blocks])
        if "weight_dropout" in options:
            weights[1] = F.dropout(weights[1], options["weight_dropout"])  # type: ignore[arg-type]
        states = [input.new_zeros(input.shape[1], hidden)] * self.states
        h_mask = None
        if "variational_dropout" in options:
            p = float(options["variational_dropout"])  # type: ignore[arg-type]
            input, h_mask = input * F.dropout(torch.ones_like(input[0]), p), F.dropout(torch.ones_like(states[0]), p)

        def run(input: Tensor, *states: Tensor) -> Tensor:
            outputs = []
            for t, x in enumerate(input):
                states = self.before(t, states, resets)
                h = states[0] if h_mask is None else states[0] * h_mask
                new = self.step(x, (h, states[1]) if self.states > 1 else h, *weights)
                states = self.after(states, new if isinstance(new, tuple) else (new,))
                outputs.append(states[0])
            return torch.stack(outputs)

        if "recompute" in options:
            return checkpoint(run, input, *states, use_reentrant=False)
        return run(input, *states)

    def before(self, t: int, states: tuple[Tensor, ...], resets: Tensor | None) -> tuple[Tensor, ...]:
        options = self.feature.options
        if resets is not None:
            states = tuple(state.masked_fill(resets[t].unsqueeze(1), 0.0) for state in states)
        if "tbptt_steps" in options and t % options["tbptt_steps"] == 0:  # type: ignore[operator]
            states = tuple(state.detach() for state in states)
        if "state_grad_clip" in options:
            limit = options["state_grad_clip"]
            states = tuple(state * 1 for state in states)
            for state in states:
                if state.requires_grad:
                    state.register_hook(lambda grad: grad.clamp(-limit, limit))  # type: ignore[operator]
        return states

    def after(self, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if "zoneout" not in self.feature.options:
            return new
        p = self.feature.options["zoneout"]
        return tuple(
            torch.where(torch.rand_like(a) < p, a, b)  # type: ignore[operator]
            for a, b in zip(old, new, strict=True)
        )


class VariantLoop(nn.Module):
    """A recurrence that torch has no cell for, in torch's ops, a step at a time."""

    def __init__(self, layer: fastrnn.RNN | fastrnn.GRU | fastrnn.LSTM) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor, _resets: Tensor | None) -> Tensor:
        options = self.layer.options
        assert options is not None
        cell, weights = options.cell(self.layer.mode), list(self.layer.parameters())
        states = [input.new_zeros(1, input.shape[1], self.layer.hidden_size)] * cells.CELLS[cell].states
        if options.layer_norm:
            weights = per_unit_weights_joined(cell, weights, 1)
        return reference.layer(cell, input, states, weights, False)[0]


def training(module: nn.Module, call: Callable[[], Tensor], input: Tensor, grad: Tensor) -> Callable[[], object]:
    leaves = [input, *module.parameters()]
    return lambda: torch.autograd.grad(call(), leaves, grad)


def measure(cell: str, case: Case, feature: Feature, seconds: float) -> tuple[Paired, Paired]:
    """The layer against the plain one, and against the loop."""
    sizes = case.input_size, case.hidden_size
    input = torch.randn(case.steps, case.batch, case.input_size, requires_grad=True)
    grad = torch.randn(case.steps, case.batch, case.hidden_size)
    resets = torch.rand(case.steps, case.batch) < 0.05 if feature.asks == "resets" else None
    asked = {"resets": {"resets": resets}, "states": {"return_states": True}, "": {}}[feature.asks]
    plain, ours = (getattr(fastrnn, cell)(*sizes, **options) for options in ({}, feature.options))
    loop = VariantLoop(ours) if any(name in feature.options for name in VARIANTS) else Loop(cell, case, feature)
    run = training(ours, lambda: ours(input, **asked)[0], input, grad)
    of_plain = compare(run, training(plain, lambda: plain(input)[0], input, grad), seconds)
    of_loop = compare(run, training(loop, lambda: loop(input, resets), input, grad), seconds / 2, least=4)
    return of_plain, of_loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--cases", nargs="+", type=Case.parse, default=CASES, metavar="T,B,I,H")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each ratio (default: 1)")
    args = machine.begin(parser)
    rows = []
    for name in args.features:
        feature = FEATURES[name]
        table = Table(
            f"Training with {name}, {args.threads} thread(s); at most {feature.most} times the plain layer is the aim",
            ["layer", "T,B,I,H", "ms", "times the plain layer", "times as fast as the loop"],
        )
        for cell in (cell for cell in args.cells if cell in feature.cells):
            for case in args.cases:
                plain, loop = measure(cell, case, feature, args.seconds)
                cost = f"{1 / plain.ratio:.2f} ({1 / plain.high:.2f}-{1 / plain.low:.2f})"
                table.rows.append([cell, str(case), milliseconds(plain.ours), cost, times_as_fast(loop)])
                what = {"feature": name, "cell": cell, **asdict(case)}
                rows += [
                    {**what, "other": other, **results.pair_columns(pair)}
                    for other, pair in (("plain", plain), ("loop", loop))
                ]
        table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
