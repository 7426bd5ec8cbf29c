"""The ops under torch.ops.fastrnn: their contract with torch, and bits that depend on nothing they should not."""

import pytest
import torch
from cases import KERNELS, Case, make_leaves
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn  # noqa: F401  (loads the ops)
from fastrnn._ops import autograd, schema

OP_NAMES = {kernel: kernel.removesuffix("_proj") for kernel in KERNELS}

by_kernel = pytest.mark.parametrize("kernel", KERNELS)
by_shape = pytest.mark.parametrize(("bidirectional", "layers"), ((False, 1), (True, 1), (True, 3)))


NOTHING_ADDED = {
    "cuts": None,
    "h_mask": None,
    "kept": None,
    "shares": None,
    "state_grad_clip": None,
    "return_cells": False,
    "activations": None,
}


def arguments(kernel, bidirectional, ragged, dtype=torch.float32, requires_grad=True, layers=1, **sizes):
    """What the public forward op takes, by its schema's names."""
    layer, options = KERNELS[kernel]
    options = options | {"bidirectional": bidirectional, "num_layers": layers}
    case = Case(layer, options, "packed" if ragged else "batched", **sizes)
    named = make_leaves(case, dtype)
    named["batch_sizes"] = None
    if ragged:
        packed = pack_padded_sequence(named["input"], case.lengths)
        named["input"], named["batch_sizes"] = packed.data, packed.batch_sizes
    named["weights"] = [w.detach() for w in case.build(dtype).parameters()]
    named["states"] = [named.pop(state) for state in ("hx", "cx") if state in named]
    if requires_grad:
        for tensor in (named["input"], *named["states"], *named["weights"]):
            tensor.requires_grad_()
    return named | NOTHING_ADDED | {"cell": OP_NAMES[kernel], "bidirectional": bidirectional, "allow_tf32": False}


def in_order(op, named):
    return tuple(named[argument.name] for argument in op._schema.arguments)


@pytest.mark.thorough
@by_kernel
@by_shape
@pytest.mark.parametrize("ragged", (False, True))
@pytest.mark.parametrize("requires_grad", (True, False))
def test_opcheck_forward(kernel, bidirectional, layers, ragged, requires_grad):
    op = schema.forward
    named = arguments(kernel, bidirectional, ragged, requires_grad=requires_grad, layers=layers)
    torch.library.opcheck(op, in_order(op, named))


@pytest.mark.thorough
@by_kernel
@by_shape
@pytest.mark.parametrize("ragged", (False, True))
def test_opcheck_backward(kernel, bidirectional, layers, ragged):
    """The backward op by itself, given what the forward op kept."""
    named = arguments(kernel, bidirectional, ragged, requires_grad=False, layers=layers)
    output, finals, _cells, reserve = schema.forward(*in_order(schema.forward, named))
    named |= {"output": output, "reserve": reserve, "input_grad": True, "weight_grads": True, "groups": 1}
    named |= {"grad_output": torch.randn_like(output), "grad_cells": None}
    named |= {"grad_final_states": list(map(torch.randn_like, finals))}
    # An op of gradients that does not itself record one: nothing to register, nothing to check there.
    utils = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(schema.backward, in_order(schema.backward, named), test_utils=utils)


def bits(kernel, named):
    """Outputs and gradients of one run on fresh leaves."""
    states = [state.detach().clone().requires_grad_() for state in named["states"]]
    value = named["input"].detach().clone().requires_grad_()
    weights = [w.detach().clone().requires_grad_() for w in named["weights"]]
    results = autograd.run(
        OP_NAMES[kernel], value, tuple(states), weights, named["bidirectional"], named["batch_sizes"]
    )
    gradients = torch.autograd.grad(results, (value, *states, *weights), [torch.ones_like(r) for r in results])
    return (*results, *gradients), len(results), len(states)


# Work that one thread does, that is split over rows, over hidden units, and over layers (test_explain.py pins which).
SIZES = (
    {"seq": 3, "batch": 2, "input_size": 3, "hidden_size": 5},
    {"seq": 40, "batch": 13, "input_size": 6, "hidden_size": 50},
    {"seq": 12, "batch": 1, "input_size": 9, "hidden_size": 250},
    {"seq": 10, "batch": 5, "input_size": 9, "hidden_size": 100},
    {"seq": 200, "batch": 3, "input_size": 5, "hidden_size": 48},
)
# In the last of these sizes, three layers run as a wavefront on three threads.
by_group = pytest.mark.parametrize(("bidirectional", "layers"), ((True, 1), (False, 3)), ids=("directions", "layers"))
by_sizes = pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"T{s['seq']}B{s['batch']}H{s['hidden_size']}")


@pytest.mark.isa
@by_kernel
@by_sizes
@by_group
@pytest.mark.parametrize("ragged", (False, True))
def test_same_bits_from_run_to_run(kernel, sizes, bidirectional, layers, ragged, threads):
    named = arguments(kernel, bidirectional, ragged, layers=layers, **sizes)
    first, *_ = bits(kernel, named)
    for _ in range(3):
        again, *_ = bits(kernel, named)
        assert all(map(torch.equal, first, again))


@pytest.mark.isa
@by_kernel
@by_sizes
@by_group
@pytest.mark.parametrize("ragged", (False, True))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=("f32", "f64"))
def test_same_bits_for_any_thread_count(kernel, sizes, bidirectional, layers, ragged, dtype):
    """Of the time loop's own kernels.

    torch's GEMM, which makes the input's share of the gates and the weights' gradients, does differ with the thread
    count; so w_ih is zero here, which leaves that share at the bias exactly, and of the gradients those of the states
    are compared, which are the time loop's alone.
    """
    named = arguments(kernel, bidirectional, ragged, dtype=dtype, layers=layers, **sizes)
    per_direction = len(named["weights"]) // (2 * layers if bidirectional else layers)
    with torch.no_grad():
        for w_ih in named["weights"][::per_direction]:
            w_ih.zero_()
    kept = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        tensors, results, states = bits(kernel, named)
        kept.append([*tensors[:results], *tensors[results + 1 : results + 1 + states]])
    for other in kept[1:]:
        assert all(map(torch.equal, kept[0], other))


@by_kernel
def test_a_row_does_not_depend_on_its_batch(kernel):
    """The same sequence alone, first, last and among others: the same up to the input's GEMM, here exactly zero."""
    named = arguments(kernel, False, False, seq=6, batch=13, input_size=3, hidden_size=20)
    with torch.no_grad():
        named["weights"][0].zero_()
    whole = bits(kernel, named)[0][0]
    for row in (0, 6, 12):
        states = [state[:, row : row + 1] for state in named["states"]]
        one = named | {"input": named["input"][:, row : row + 1], "states": states}
        assert torch.equal(bits(kernel, one)[0][0], whole[:, row : row + 1])
