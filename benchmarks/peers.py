"""The implementations that are timed: fastrnn, and each of its peers, behind one small interface.

A peer whose package is missing raises UnavailableError when it is made, one that cannot run a case when it prepares
that case; both with the reason. Nothing but torch is imported before that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import onnx_runtimes
import torch
from torch import nn
from unavailable import UnavailableError, version_of
from workloads import Problem, load

import fastrnn
from fastrnn import reference

Run = Callable[[], Sequence[Any]]

# torch.compile writes out every step of a loop; beyond this many it compiles for minutes.
MOST_COMPILED_STEPS = 32
# Of a result's largest value: well above what f32 sums over 1,000 steps differ by, well below what bf16 would.
TOLERANCE = 1e-3


class Implementation(Protocol):
    """One way to run a layer, on the number of threads it was made with."""

    name: str
    version: str
    own_threads: bool  # keeps threads beside torch's, which may spin for a while after a call

    def prepare(self, problem: Problem) -> Run:
        """What to time: gives output and final states, or the gradients of the problem's leaves."""
        ...


class Modules:
    """A module of the layer's class in some namespace: torch.nn, or fastrnn."""

    own_threads = False

    def __init__(self, name: str, namespace: Any, version: str) -> None:
        self.name, self.namespace, self.version = name, namespace, version

    def prepare(self, problem: Problem) -> Run:
        case = problem.case
        module = load(getattr(self.namespace, problem.cell)(case.input_size, case.hidden_size), problem.weights)
        if not problem.training:

            def infer() -> Sequence[Any]:
                with torch.no_grad():
                    output, states = module(problem.input)
                return (output, *states) if isinstance(states, tuple) else (output, states)

            return infer
        states = problem.states if len(problem.states) > 1 else problem.states[0]
        leaves = (problem.input, *problem.states, *module.parameters())
        return lambda: torch.autograd.grad(module(problem.input, states)[0], leaves, problem.grad)


class Compiled:
    """torch.compile of a loop over the steps, the input's product before it."""

    name, own_threads = "compile", False
    version = f"torch.compile {torch.__version__}"

    def prepare(self, problem: Problem) -> Run:
        case = problem.case
        if case.steps > MOST_COMPILED_STEPS:
            raise UnavailableError(f"more than {MOST_COMPILED_STEPS} steps compile for too long")
        torch._dynamo.reset()  # or the cases before this one count as its recompilations
        cell = {"RNN": "rnn_tanh", "GRU": "gru", "LSTM": "lstm"}[problem.cell]

        @torch.compile(dynamic=False, fullgraph=True)
        def layer(input: Any, states: Any, weights: Any) -> Any:
            return reference.layer(cell, input, states, weights, bidirectional=False)

        if problem.training:
            return lambda: torch.autograd.grad(
                layer(problem.input, problem.states, problem.weights)[0], problem.leaves, problem.grad
            )
        zeros = tuple(torch.zeros_like(state) for state in problem.states)

        def infer() -> Sequence[Any]:
            with torch.no_grad():
                return layer(problem.input, zeros, problem.weights)

        return infer


class Jax:
    """jax.jit of lax.scan, the input's product before it."""

    name, own_threads = "jax", True

    def __init__(self, threads: int) -> None:
        # The number of its threads is read when a backend is made.
        os.environ["PJRT_NPROC"] = str(threads)
        self.version = version_of("jax", "jaxlib")
        import jax_scan

        jax_scan.remake_backend()
        self._scan = jax_scan

    def prepare(self, problem: Problem) -> Run:
        return self._scan.training(problem) if problem.training else self._scan.inference(problem)


def fastrnn_layers() -> Implementation:
    return Modules("fastrnn", fastrnn, f"fastrnn {fastrnn.__version__}")


def torch_layers() -> Implementation:
    return Modules("torch", nn, f"torch {torch.__version__}")


PEERS: dict[str, Callable[[int], Implementation]] = {
    "torch": lambda threads: torch_layers(),
    "onnxruntime": onnx_runtimes.OnnxRuntime,
    "openvino": onnx_runtimes.OpenVino,
    "compile": lambda threads: Compiled(),
    "jax": Jax,
}
"""By the name on the command line; each is made with the number of its threads."""


def check(name: str, results: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise UnavailableError unless these results are the expected ones, whatever library's arrays they are."""
    for got, want in zip(map(_tensor, results), map(_tensor, expected), strict=True):
        error = (got.reshape(want.shape) - want).abs().max().item()
        if not error <= TOLERANCE * want.abs().max().item():
            raise UnavailableError(f"{name} does not compute what torch.nn does: off by {error:g}")


def _tensor(array: Any) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.detach()
    import numpy as np

    return torch.from_numpy(np.array(array))
