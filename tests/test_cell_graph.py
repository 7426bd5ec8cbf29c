"""Cells of one's own, up to the C++ that is made of them: graphs, their derivatives and what forward keeps."""

import itertools
from collections import namedtuple

import pytest
import torch
from written_cells import CELLS, FUNCTIONS, MORE_FUNCTIONS

from fastrnn._cell.derive import derive, evaluate_backward
from fastrnn._cell.emit import header
from fastrnn._cell.graph import evaluate, evaluate_nodes
from fastrnn._cell.nodes import leaf
from fastrnn._cell.ops import OPS, lowered
from fastrnn._cell.trace import trace

BATCH, HIDDEN = 3, 7
EXTREMES = (-torch.inf, -200.0, -3.0, -1.0, -0.3, -0.0, 0.0, 1e-3, 0.5, 1.0, 3.0, 25.0, 200.0, torch.inf, torch.nan)


@pytest.mark.parametrize("name", CELLS)
def test_graph_computes_what_the_function_computes(name):
    graph, arguments = CELLS[name].trace(), _arguments(name)
    assert all(map(torch.equal, evaluate(graph, *arguments), _function(name, *arguments)))


@pytest.mark.parametrize("name", CELLS)
def test_backward_equals_autograd(name):
    """From what is kept, the states before and the weights alone."""
    graph, (x, r, states, weights, input) = CELLS[name].trace(), _arguments(name)
    backward = derive(graph)
    inputs = [*x, *r, *states, *weights, *([] if input is None else [input])]
    for tensor in inputs:
        tensor.requires_grad_()
    results = _function(name, x, r, states, weights, input)
    grads = [torch.randn_like(result) for result in results]
    expected = torch.autograd.grad(results, inputs, grads, materialize_grads=True)
    with torch.no_grad():
        leaves = _leaves(x, r, states, weights, input)
        kept = evaluate_nodes(backward.kept, leaves, states[0])
        actual = evaluate_backward(backward, kept, states, weights, grads)
    for of, one, other in zip(inputs, actual, expected, strict=True):
        tolerance = 4e-8 if name == "six_gates" else 1e-11  # torch's gradient of hardsigmoid
        torch.testing.assert_close(one.sum(0) if of.dim() == 1 else one, other, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_forward_keeps_as_little_as_possible(name):
    backward = derive(CELLS[name].trace())
    assert len(backward.kept) == CELLS[name].kept
    assert backward.separate_biases == CELLS[name].separate


def test_slots_of_a_gru():
    backward = derive(CELLS["gru"].trace())
    assert backward.recurrent_slots == (0, 1, 3)
    assert backward.saved_values == 4
    assert backward.slots == (*backward.x, backward.r[2])


def test_every_operation_is_tested():
    public = {name for name, op in OPS.items() if op.gradients is not None}
    assert public == set(FUNCTIONS)


@pytest.mark.parametrize("name", [*FUNCTIONS, *MORE_FUNCTIONS])
def test_operation_is_torchs(name):
    """Values and gradients at kinks, ties, infinities and NaN; lowered for C++, up to rounding."""
    function = (FUNCTIONS | MORE_FUNCTIONS)[name]
    graph = trace(lambda x, h: function(*x), 3, recurrent="none")
    assert name.split()[0] in graph.text()
    x = torch.tensor([*itertools.product(EXTREMES, EXTREMES, (-1.0, 2.0))], dtype=torch.double).T.contiguous()
    x = torch.cat([x, 3 * torch.randn(3, 50, dtype=torch.double)], 1)[:, None, :].unbind()
    for tensor in x:
        tensor.requires_grad_()
    expected = function(*x)
    h = torch.zeros_like(expected)
    (actual,) = evaluate(graph, x, (), (h,), ())
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    leaves = _leaves(x, (), (h,), (), None)
    (plain,) = evaluate_nodes(lowered(graph.results), leaves, h)
    torch.testing.assert_close(plain, expected, rtol=1e-13, atol=1e-15, equal_nan=True)

    grads = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, x, grads, materialize_grads=True) if expected.requires_grad else [h] * 3
    backward = derive(graph)
    kept = evaluate_nodes(backward.kept, leaves, h)
    leaves = _leaves((), (), (h,), (), None) | {leaf("kept", k): value for k, value in enumerate(kept)}
    tolerance = 4e-8 if name == "hardsigmoid" else 1e-12  # torch's 1 / 6 is a float's
    for roots in (backward.x, lowered(backward.x)):
        got = evaluate_nodes(roots, leaves | {leaf("grad", 0): grads}, h)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=1e-13, equal_nan=True)


def test_hash_depends_on_the_maths_alone():
    def renamed(x, r, state):
        update, fresh = torch.sigmoid(x.update + r.update), (x.fresh + r.fresh).relu()
        return update * state + (1.0 - update) * fresh

    def other(x, r, h):
        z, a = torch.sigmoid(x.z + r.z), torch.relu(x.a + r.a)
        return z * h + (2 - z) * a

    graph = CELLS["li_gru"].trace()
    assert graph.hash == "83449c3ef9"
    assert graph.hash == CELLS["li_gru"].trace().hash
    assert graph.hash == trace(renamed, ("update", "fresh"), states=("state",)).hash
    assert graph.hash != trace(other, ("z", "a")).hash
    assert len({written.trace().hash for written in CELLS.values()}) == len(CELLS)


def test_numbers_are_read_once():
    scale = 2

    def function(x, r, h):
        return scale * x[0]

    graph = trace(function, 1)
    scale = 3
    assert graph.hash == trace(lambda x, r, h: 2 * x[0], 1).hash != trace(function, 1).hash


def test_header_of_a_cell():
    graph = CELLS["li_gru"].trace()
    text = header(graph, derive(graph), "LiGRU")
    assert text == LI_GRU


LI_GRU = """\
// Made from the function LiGRU:
//   v0 = sigmoid(x.z + r.z)
//   h' = v0 * h + (1 - v0) * relu(x.a + r.a)
#pragma once

#include "cells/cell.h"
#include "cells/functions.h"

namespace fastrnn::own {

struct LiGRUCell : CellDefaults {
  static constexpr CellName kName{"ligru@83449c3ef9"};
  static constexpr int kGates = 2, kSavedValues = 2, kCellStates = 0, kPerUnitWeights = 0;
  static constexpr bool kMultipliesH = true, kReadsInput = false, kReadsPreviousH = true;
  static constexpr bool kCarriesH = true, kReadsCells = false;
  static constexpr unsigned kSeparateBiases = 0;
  static constexpr FASTRNN_INLINE int recurrent_slot(int gate) { return gate; }

  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kSavedValues>& step) {
    const V v0 = sigmoid<V>(x[0] + r[0]);
    const V v1 = x[1] + r[1];
    const V v2 = select<V>(v1 < 0, V{}, v1);
    step.h = v0 * step.h_prev + (1 - v0) * v2;
    step.saved[0] = v0;
    step.saved[1] = v2;
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>& step, StepGrad<V, kSavedValues>& grad) {
    const V h_grad = grad.h;
    const V v0 = h_grad * step.h_prev - h_grad * step.saved[1];
    const V v1 = 1 - step.saved[0];
    grad.saved[0] = v0 * v1 * step.saved[0];
    grad.saved[1] = select<V>(step.saved[1] <= 0, V{}, h_grad * v1);
    grad.h = h_grad * step.saved[0];
  }
};

}  // namespace fastrnn::own
"""


def _leaves(x, r, states, weights, input):
    kinks = (("x", x), ("r", r), ("state", states), ("weight", weights))
    leaves = {leaf(kind, k): tensor for kind, tensors in kinks for k, tensor in enumerate(tensors)}
    return leaves if input is None else {leaf("input"): input, **leaves}


def _arguments(name):
    """Random arguments of ``evaluate`` for a cell."""
    written = CELLS[name]
    graph = written.trace()

    def tensors(count, *shape):
        return [torch.randn(*shape, dtype=torch.double) for _ in range(count)]

    dense = graph.recurrent == "dense"
    return (
        tensors(len(graph.gates), BATCH, HIDDEN),
        tensors(len(graph.gates) if dense else 0, BATCH, HIDDEN),
        [state.abs() + 0.5 for state in tensors(len(graph.states), BATCH, HIDDEN)],  # sLSTM divides by one
        tensors(graph.per_unit_weights, HIDDEN),
        torch.randn(BATCH, HIDDEN, dtype=torch.double) if graph.reads_input else None,
    )


def _function(name, x, r, states, weights, input):
    """The cell's function, run on tensors."""
    written = CELLS[name]
    make = tuple if isinstance(written.gates, int) else namedtuple("Gates", written.gates)._make
    if written.recurrent == "diagonal":
        r = [weight * states[0] for weight in weights[: len(x)]]
    arguments = [*([input] if written.reads_input else []), make(x), *([make(r)] if r else []), *states]
    own = weights[len(weights) - len(written.weights) :]
    result = written.function(*arguments, **dict(zip(written.weights, own, strict=True)))
    return result if isinstance(result, tuple) else (result,)
