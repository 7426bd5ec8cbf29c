"""torch's own sample inputs for the six classes, and its own wrong inputs, given to ours."""

import copy
from functools import partial

import pytest
import torch
from cases import CELLS, DTYPES, LAYERS, assert_same, flatten, tolerance
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_leaves

import fastrnn

pytestmark = pytest.mark.thorough

CLASSES = (*LAYERS, *CELLS)
INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls in [getattr(nn, c) for c in CLASSES]}

by_class = pytest.mark.parametrize("name", CLASSES)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
by_training = pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))


def samples(name, dtype, training):
    """torch's samples; for RNN and GRU also the packed ones, which torch makes only when asked."""
    make = INFOS[name].module_inputs_func
    inputs = make(INFOS[name], device="cpu", dtype=dtype, requires_grad=True, training=training)
    if name in ("RNN", "GRU"):
        more = partial(make, with_packed_sequence=True)
        packed = more(INFOS[name], device="cpu", dtype=dtype, requires_grad=True, training=training)
        inputs += [i for i in packed if isinstance(i.forward_input.args[0], PackedSequence)]
    return inputs


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def fresh_leaves(value):
    """A copy of sample arguments whose floating tensors are leaves: torch packs some, which makes them non-leaves."""
    if isinstance(value, torch.Tensor):
        value = value.detach().clone()
        return value.requires_grad_() if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return type(value)(*map(fresh_leaves, value))
    if isinstance(value, (tuple, list)):
        return type(value)(map(fresh_leaves, value))
    return copy.copy(value)


def run(module, sample):
    args = fresh_leaves(sample.forward_input.args)
    kwargs = {k: fresh_leaves(v) for k, v in sample.forward_input.kwargs.items()}
    outputs = flatten(module(*args, **kwargs))
    leaves = [t for t in tensors_in([args, list(kwargs.values())]) if t.requires_grad] + list(module.parameters())
    sum(t.sin().sum() for t in outputs.values() if t.is_floating_point()).backward()
    results = {name: t.detach() for name, t in outputs.items()}
    return results | {f"gradient {i}": leaf.grad for i, leaf in enumerate(leaves)}


def sample_tolerance(sample, dtype):
    """Of sums whose terms are as large as torch's samples, which go up to 9: what is rounded is as much larger."""
    largest = max(t.detach().abs().max().item() for t in floating(sample.forward_input) if t.numel())
    return tolerance(dtype, depth=10, terms=40) * max(1.0, largest)


def floating(arguments):
    return [t for t in tree_leaves((arguments.args, arguments.kwargs)) if torch.is_tensor(t) and t.is_floating_point()]


def test_the_database_still_holds_all_six():
    assert set(INFOS) == set(CLASSES)


@by_class
@by_dtype
@by_training
def test_samples(name, dtype, training):
    inputs = samples(name, dtype, training)
    assert inputs
    for sample in inputs:
        args, kwargs = sample.constructor_input.args, sample.constructor_input.kwargs
        theirs = getattr(nn, name)(*args, **kwargs).to(dtype).train(training)
        ours = getattr(fastrnn, name)(*args, **kwargs).to(dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        assert_same(run(theirs, sample), run(ours, sample), sample_tolerance(sample, dtype))
        if sample.reference_fn is not None and not isinstance(sample.forward_input.args[0], PackedSequence):
            _check_torchs_own_reference(ours, sample, dtype)


def _check_torchs_own_reference(ours, sample, dtype):
    """What torch's tests compare with: an unbatched call equals a batched one."""
    args, kwargs = sample.forward_input.args, sample.forward_input.kwargs
    expected = sample.reference_fn(ours, *args, **kwargs)
    actual = flatten(ours(*args, **kwargs))
    assert_same(flatten(expected), actual, sample_tolerance(sample, dtype))


@by_class
@by_dtype
@by_training
def test_error_samples(name, dtype, training):
    """The types torch declares, and the heart of its messages where ours has reason to say the same."""
    wrong = INFOS[name].module_error_inputs_func(
        INFOS[name], device="cpu", dtype=dtype, requires_grad=False, training=training
    )
    assert wrong
    for sample in wrong:
        args = sample.module_error_input.constructor_input.args
        kwargs = sample.module_error_input.constructor_input.kwargs
        if sample.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                getattr(fastrnn, name)(*args, **kwargs)
        else:
            call_args = sample.module_error_input.forward_input.args
            module = getattr(fastrnn, name)(*args, **kwargs)
            if name in CELLS:
                module.to(dtype)
            with pytest.raises(sample.error_type):
                module(*call_args)
