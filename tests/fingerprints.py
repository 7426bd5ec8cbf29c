"""Hashes of what drawn calls compute, bit by bit: a change that is to change no result leaves every line as it is.

    .venv/bin/python tests/fingerprints.py > before; ...; .venv/bin/python tests/fingerprints.py | diff before -

Of one machine and one torch: torch's own products differ between processors.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from typing import Any

import torch
from cases import LAYERS, flatten
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn

# What each layer may be beyond torch.nn's.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "RNN": [{}, {"zoneout": 0.3}, {"layer_norm": True}, {"num_heads": 2}],
    "GRU": [{}, {"reset_after": False}, {"zoneout": 0.3}, {"layer_norm": True}, {"variational_dropout": 0.2}],
    "LSTM": [
        {},
        {"zoneout": (0.2, 0.3)},
        {"peephole": True},
        {"coupled": True},
        {"coupled": True, "peephole": True, "layer_norm": True},
        {"layer_norm": True},
        {"weight_dropout": 0.2, "state_grad_clip": 0.05},
        {"recompute": True},
    ],
}
ROUTES = ("padded", "packed", "lengths", "resets", "tbptt", "cell", "inference", "packed weights", "jordan")


def draw(index: int) -> tuple[str, nn.Module, tuple[Any, ...], dict[str, Any], bool]:
    """The call of this number: how it is described, module, arguments, keywords, whether gradients are taken."""
    rng = random.Random(index)
    torch.manual_seed(index)
    torch.set_num_threads(rng.choice((1, 2)))
    layer, route = rng.choice(LAYERS), rng.choice(ROUTES)
    dtype = rng.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
    steps, batch, features = rng.choice((1, 5, 12, 40)), rng.choice((1, 3, 9, 33)), rng.choice((1, 3, 16, 40))
    hidden = 2 * rng.choice((1, 4, 9, 16, 50, 96))
    kind: dict[str, Any] = {"dtype": dtype}
    if layer == "RNN":
        kind["nonlinearity"] = rng.choice(("tanh", "relu"))
    if route == "cell":
        module, value = getattr(fastrnn, f"{layer}Cell")(features, hidden, **kind), (batch, features)
    elif route == "jordan":
        kind.pop("nonlinearity", None)
        module, value = fastrnn.JordanRNN(features, hidden, 5, **kind), (steps, batch, features)
    else:
        options = rng.choice(OPTIONS[layer]) if "weights" not in route else {}
        kind |= {"num_layers": rng.choice((1, 1, 2, 3)), "bidirectional": rng.random() < 0.3, **options}
        if kind["num_layers"] > 1 and rng.random() < 0.3:
            kind["dropout"] = 0.2
        if layer == "LSTM" and rng.random() < 0.2 and not options:
            kind["proj_size"] = hidden // 2
        if route == "tbptt":
            kind["tbptt_steps"] = 3
        module, value = getattr(fastrnn, layer)(features, hidden, **kind), (steps, batch, features)
    input: Any = torch.randn(value, dtype=dtype)
    lengths, how = torch.randint(1, steps + 1, (batch,)), {}
    if route == "packed":
        input = pack_padded_sequence(input, lengths, enforce_sorted=False)
    elif route == "lengths":
        how["lengths"] = lengths
    elif route == "resets":
        how["resets"] = torch.rand(steps, batch) < 0.2
        if layer == "LSTM":
            how["return_states"] = rng.random() < 0.5
    if "weights" in route:
        module.pack_weights()
    grad = route not in ("inference", "packed weights")
    about = f"{index} {module} {route} {dtype} {torch.get_num_threads()} threads {value}"
    return about.replace("\n", " "), module, (input,), how, grad


def digest(tensors: list[Tensor | None]) -> str:
    hashed = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            hashed.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            hashed.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()[:16]


def fingerprint(index: int) -> str:
    about, module, arguments, how, grad = draw(index)
    with torch.set_grad_enabled(grad):
        results = [leaf for leaf in flatten(module(*arguments, **how)).values() if leaf.is_floating_point()]
    tensors: list[Tensor | None] = list(results)
    if grad:
        upstream = [torch.randn_like(leaf) for leaf in results]
        wanted = list(module.parameters())
        if isinstance(arguments[0], Tensor):
            wanted.append(arguments[0].requires_grad_())
            results = [leaf for leaf in flatten(module(*arguments, **how)).values() if leaf.is_floating_point()]
        tensors += torch.autograd.grad(results, wanted, upstream, allow_unused=True)
    return f"{digest(tensors)} {about}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="of calls (default: 300)")
    for index in range(parser.parse_args().count):
        print(fingerprint(index), flush=True)


if __name__ == "__main__":
    main()
