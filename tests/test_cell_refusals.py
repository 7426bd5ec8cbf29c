"""What a cell's function can't do ends where it is defined, in an error that names the line and what to do."""

import inspect
import linecache
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastrnn._cell.trace import trace

OUTSIDE = torch.ones(3)


def increments(x, r, h):
    a = x.z + r.z
    a += h  # here
    return a


def relu_in_place(x, r, h):
    return F.relu(x.z, inplace=True)  # here


def sigmoid_in_place(x, r, h):
    return x.z.sigmoid_()  # here


def branches(x, r, h):
    if x.z > 0:  # here
        return x.z
    return h


def picks_by_max(x, r, h):
    return max(x.z, h)  # here


def multiplies_by_captured(x, r, h):
    return OUTSIDE * x.z  # here


def multiplied_by_captured(x, r, h):
    return x.z * OUTSIDE  # here


def passes_captured(x, r, h):
    return torch.maximum(x.z, OUTSIDE)  # here


def multiplies_by_array(x, r, h):
    return np.ones(3) * x.z  # here


def drops(x, r, h):
    return F.dropout(x.z)  # here


def adds_noise(x, r, h):
    return x.z + torch.rand_like(h)  # here


def multiplies_late(x, r, h):
    return torch.matmul(OUTSIDE, h * x.z)  # here


def multiplies_by_at(x, r, h):
    return x.z @ h  # here


def softmaxes(x, r, h):
    return torch.softmax(x.z, -1)  # here


def sums(x, r, h):
    return x.z.sum()  # here


def concatenates(x, r, h):
    return torch.cat([x.z, h])  # here


def indexes(x, r, h):
    return h[..., :2]  # here


def loops(x, r, h):
    for unit in h:  # here
        h = h + unit
    return h


def measures(x, r, h):
    return h * len(h)  # here


def uses_math(x, r, h):
    return h * math.exp(x.z)  # here


def reads_shape(x, r, h):
    return h / h.shape[-1]  # here


def misspells(x, r, h):
    return x.z + r.y  # here


def takes_all_gates(x, r, h):
    return torch.sigmoid(x) + h  # here


def adds_all_gates(x, r, h):
    return x + h  # here


def raises_to_value(x, r, h):
    return x.z**h  # here


def raises_number(x, r, h):
    return 2**h  # here


def clamps_by_value(x, r, h):
    return x.z.clamp(min=h)  # here


def maximum_of_number(x, r, h):
    return x.z.maximum(0.0)  # here


def exact_gelu(x, r, h):
    return F.gelu(x.z)  # here


def combines(x, r, h):
    return torch.where((x.z > 0) & (h > 0), x.z, h)  # here


def counts_condition(x, r, h):
    return h * (x.z > 0)  # here


def chooses_by_value(x, r, h):
    return torch.where(x.z, h, 0.0)  # here


def returns_condition(x, r, h):
    above = x.z > h  # here
    return above, x.z


def fills(x, r, h):
    return torch.maximum(x.z, torch.zeros_like(h))  # here


def adds_text(x, r, h):
    return x.z + "h"  # here


def through_a_helper(x, r, h):
    return _helper(x.z)


def _helper(a):
    return a % 2  # here


REFUSED = {
    increments: r"write a = a \+ b",
    relu_in_place: "in place",
    sigmoid_in_place: r"write a = a.sigmoid\(",
    branches: "use torch.where",
    picks_by_max: "use torch.where",
    multiplies_by_captured: "pass it as one of weights=",
    multiplied_by_captured: "pass it as one of weights=",
    passes_captured: "pass it as one of weights=",
    multiplies_by_array: "pass it as one of weights=",
    drops: "nothing in it may be random",
    adds_noise: "nothing in it may be random",
    multiplies_late: r"matmul .* can't come after a gate, as in W_hh \(r \* h\)",
    multiplies_by_at: "can't come after a gate",
    softmaxes: "softmax .* allowed are .* sigmoid",
    sums: "sum .* allowed are",
    concatenates: "cat .* allowed are",
    indexes: "no elements, length or index",
    loops: "no elements, length or index",
    measures: "no elements, length or index",
    uses_math: "use torch's functions",
    reads_shape: "shape, dtype and device aren't known",
    misspells: r"there is no r\.y: the cell has r\.z",
    takes_all_gates: r"x is all gates: take one, as in x\.z",
    adds_all_gates: r"take one, as in x\.z",
    raises_to_value: r"write torch.exp\(b \* torch.log\(a\)\)",
    raises_number: "pow takes a number as its exponent",
    clamps_by_value: r"write torch\.maximum\(a, b\)",
    maximum_of_number: r"write torch\.clamp\(a, min=",
    exact_gelu: 'approximate="tanh"',
    combines: "nesting torch.where",
    counts_condition: r"write torch\.where\(condition, a, b\)",
    chooses_by_value: "where takes a condition first",
    returns_condition: r"h is a condition: write torch\.where",
    fills: "write the number itself",
    adds_text: "got str",
    through_a_helper: "allowed are",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_refused(function):
    with pytest.raises((TypeError, ValueError, AttributeError), match=REFUSED[function]) as raised:
        trace(function, ("z",))
    file, line, _ = str(raised.value).split(":", 2)
    assert file == __file__
    source = inspect.getsource(_helper if function is through_a_helper else function)
    assert linecache.getline(file, int(line)).endswith("# here\n"), source


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, r, h: None, "must return h, but h is None: is a return missing?"),
        (lambda x, r, h: 1.0, "must return h, but h is of type float"),
        (lambda x, r, h: OUTSIDE, "must return h, but h is of type Tensor"),
        (lambda x, r, h: x, "h is x, which is all gates"),
        (lambda x, r, h: (h, h), "must return h, got 2 values"),
    ],
)
def test_results(function, message):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        trace(function, ("z",))
    assert str(raised.value).startswith(__file__)


@pytest.mark.parametrize("recurrent", ("dense", "diagonal"))
def test_what_is_never_used_is_said(recurrent):
    def function(x, r, h, *, w, v):
        return x.z + r.a * w

    warned = "the cell's function never uses gate b, weight v"
    with pytest.warns(UserWarning, match=warned) as raised:
        trace(function, ("z", "a", "b"), recurrent=recurrent, weights=("w", "v"))
    assert raised[0].filename == __file__
    assert raised[0].lineno == function.__code__.co_firstlineno


@pytest.mark.parametrize(
    ("function", "declared", "message"),
    [
        (lambda x, h: h, {}, r"must have the parameters \(x, r, h\), got \(x, h\)"),
        (lambda x, r, h: h, {"recurrent": "none"}, r"parameters \(x, h\), with no r, since recurrent=\"none\""),
        (lambda x, r, c, h: (h, c), {"states": ("h", "c")}, r"parameters \(x, r, h, c\)"),
        (lambda x, r, h: h, {"reads_input": True}, r"parameters \(input, x, r, h\)"),
        (lambda x, r, h: h, {"weights": ("w",)}, r"parameters \(x, r, h, \*, w\)"),
        (lambda x, r, h, w: h, {}, r"parameters \(x, r, h\), got \(x, r, h, w\)"),
        (3, {}, "got int, which isn't a function"),
    ],
)
def test_parameters(function, declared, message):
    with pytest.raises(TypeError, match=message):
        trace(function, ("z",), **declared)


def test_other_parameters_may_have_defaults():
    graph = trace(lambda x, r, h, slope=0.25, **w: slope * h * w["w"], ("z",), weights={"w": torch.nn.init.ones_})
    assert "constant 0.25" in graph.text()


@pytest.mark.parametrize(
    ("declared", "error", "message"),
    [
        ({"gates": 0}, ValueError, "1 to 8 gates, got 0"),
        ({"gates": 9}, ValueError, "1 to 8 gates, got 9"),
        ({"gates": "zr"}, TypeError, "sequence of names, got 'zr'"),
        ({"gates": ("z", 1)}, TypeError, "a gate must be a str, got int"),
        ({"gates": ("z", "z")}, ValueError, "got 'z' twice"),
        ({"gates": ("2z",)}, ValueError, "identifier"),
        ({"gates": ("in",)}, ValueError, "'in', a keyword of Python"),
        ({"gates": ("double",)}, ValueError, r"'double', a keyword of C\+\+"),
        ({"states": ()}, ValueError, r"1 to 4 states, got \(\)"),
        ({"states": tuple("abcde")}, ValueError, "1 to 4 states"),
        ({"states": tuple("abcde"), "output": "y"}, ValueError, "1 to 4 states"),
        ({"output": "h"}, ValueError, "output='h' is a state already"),
        ({"weights": ("h",)}, ValueError, "weight 'h' has the name of another parameter"),
        ({"weights": ("r",)}, ValueError, "weight 'r' has the name of another parameter"),
        ({"recurrent": "sparse"}, ValueError, "one of 'dense', 'diagonal', 'none', got 'sparse'"),
    ],
)
def test_declaration(declared, error, message):
    with pytest.raises(error, match=message):
        trace(lambda x, r, h: h, **({"gates": ("z",)} | declared))


def test_gates_without_names():
    with pytest.raises(IndexError, match=r"there is no x\[2\]: the cell has 2 gates"):
        trace(lambda x, r, h: x[2], 2)
    with pytest.raises(AttributeError, match=r"there is no x\.z: the cell has x\[0\], x\[1\]"):
        trace(lambda x, r, h: x.z, 2)
    with pytest.raises(TypeError, match=r"x\['z'\]: x takes the number of a gate"):
        trace(lambda x, r, h: x["z"], 2)
