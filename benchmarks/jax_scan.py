"""A layer in JAX: the input's product, then lax.scan over the steps. Imports JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from workloads import Problem

Array = jax.Array
States = tuple[Array, ...]


def remake_backend() -> None:
    """Let go of JAX's threads and all it compiled; the next call starts anew, with the environment as it is now."""
    jax.extend.backend.clear_backends()


def inference(problem: Problem) -> Callable[[], Sequence[Any]]:
    @jax.jit
    def run(input: Array, weights: States) -> States:
        states = tuple(jnp.zeros(state.shape) for state in problem.states)
        return layer(problem.cell, input, states, weights)

    input, weights = _array(problem.input), tuple(map(_array, problem.weights))
    return lambda: jax.block_until_ready(run(input, weights))


def training(problem: Problem) -> Callable[[], Sequence[Any]]:
    count = len(problem.states)

    @jax.jit
    def run(grad: Array, *leaves: Array) -> States:
        def output(input: Array, *rest: Array) -> Array:
            return layer(problem.cell, input, rest[:count], rest[count:])[0]

        return jax.vjp(output, *leaves)[1](grad)

    grad, leaves = _array(problem.grad), tuple(map(_array, problem.leaves))
    return lambda: jax.block_until_ready(run(grad, *leaves))


def layer(cell: str, input: Array, states: States, weights: States) -> States:
    """Output (T, B, H) and final states (1, B, H); states and weights as in a Problem."""
    w_ih, w_hh, b_ih, b_hh = weights
    step = {"RNN": _elman, "GRU": _gru, "LSTM": _lstm}[cell]

    def body(carry: States, x_gates: Array) -> tuple[States, Array]:
        carry = step(x_gates, carry, carry[0] @ w_hh.T + b_hh)
        return carry, carry[0]

    finals, output = jax.lax.scan(body, tuple(state[0] for state in states), input @ w_ih.T + b_ih)
    return output, *(final[None] for final in finals)


def _elman(x_gates: Array, states: States, h_gates: Array) -> States:
    return (jnp.tanh(x_gates + h_gates),)


def _gru(x_gates: Array, states: States, h_gates: Array) -> States:
    split = partial(jnp.split, indices_or_sections=3, axis=-1)
    (x_r, x_z, x_n), (h_r, h_z, h_n) = split(x_gates), split(h_gates)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    return ((1 - z) * jnp.tanh(x_n + r * h_n) + z * states[0],)


def _lstm(x_gates: Array, states: States, h_gates: Array) -> States:
    i, f, g, o = jnp.split(x_gates + h_gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * states[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _array(tensor: Any) -> Array:
    return jnp.asarray(tensor.detach().numpy())
