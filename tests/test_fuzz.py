"""Any arguments at all: torch.nn's result, or torch.nn's type of exception.

FASTRNN_FUZZ_CASES=10000 makes a long run of it.
"""

import os
import warnings

import fuzz_cases
import pytest
import torch
from cases import flatten
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import fastrnn

pytestmark = pytest.mark.thorough

CASES = int(os.environ.get("FASTRNN_FUZZ_CASES", "300"))

SETTINGS = settings(
    max_examples=CASES,
    deadline=None,
    database=None,  # runs must not depend on what ran before
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def outcome(function):
    """What the function returned, or the exception it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return function()
        except Exception as error:
            return error


# The deliberate differences, all of them, each with its reason: anything else is a bug. A construction is a difference
# when torch.nn makes the module and fastrnn refuses.
REFUSED_AT_ONCE = {
    "proj_size": "torch.nn takes a positional proj_size for RNN and GRU, and fails at every call",
    "bidirectional": "torch.nn takes any object as bidirectional, and fails at every call unless it is a bool",
}


def difference_meant(construction, module, call):
    """Why torch.nn and fastrnn may differ in this call, and what fastrnn may then do; None if they may not."""
    name = construction.name
    input, hx = (*call.args, None)[:2]
    if {parameter.device.type for parameter in module.parameters()} == {"meta"}:
        return "either", "torch.nn mixes meta and other tensors in some calls, fastrnn in none"
    if isinstance(getattr(module, "num_layers", 1), bool):
        return "either", "torch.nn takes True as num_layers, and fails at most calls"
    if name == "RNNCell" and module.nonlinearity not in ("tanh", "relu"):
        return "raises", "fastrnn looks at the nonlinearity first, torch.nn at the input"
    if hx is not None and not sound_kind(name, hx):
        return "raises", "torch.nn trips over an hx of the wrong kind wherever it first touches it"
    if "packed" in call.oddities:
        if input.data.dim() != 2:
            return "raises", "torch.nn.LSTM does not look at the rank of packed data"
        if name == "LSTM" and hx is None and input.data.shape[1] != module.input_size:
            return "raises", "torch.nn.LSTM without hx does not look at the features of packed data, and broadcasts one"
        if name == "LSTM":
            return "same or raises", "torch.nn.LSTM leaves the dtypes of a packed call to its kernels"
        if hx is not None and input.unsorted_indices is not None and hx.shape[1:2] != input.unsorted_indices.shape:
            return "raises", "torch.nn sorts hx before it checks it, and so drops rows or fails to find them"
    states = () if hx is None else (hx,) if isinstance(hx, torch.Tensor) else hx
    if (
        name.endswith("Cell")
        and isinstance(input, torch.Tensor)
        and any(state.dim() != input.dim() for state in states)
    ):
        return "raises", "torch.nn's cells do not compare the ranks of input, hx and cx"
    if name.startswith("LSTM") and states and states[1].dtype != states[0].dtype:
        return "raises", "torch.nn's LSTM and LSTMCell do not look at the dtype of cx"
    if dtypes(call) & set(fuzz_cases.HALF_DTYPES):
        return "same or free", "torch.nn lacks some kernels for half types, and raises then and for other reasons"
    if states and isinstance(outcome(lambda: module(input)), Exception):
        return "raises", "with a wrong input and perhaps a wrong hx, too, either may be reported first"
    if dtypes(call) & {torch.complex64}:
        return "raises", "fastrnn has no kernels for complex numbers"
    return None


def may_crash_torch(construction, module, call):
    """Whether torch.nn's kernels take these states unchecked, read past their end, and may end the process.

    That is so for a packed call of LSTM, and for LSTMCell.
    """
    name = construction.name
    input, hx = (*call.args, None)[:2]
    if hx is None or not (name == "LSTMCell" or (name == "LSTM" and "packed" in call.oddities)):
        return False
    if not sound_kind(name, hx):
        return True
    if name == "LSTMCell":
        lead = tuple(input.shape[:-1]) if isinstance(input, torch.Tensor) else ()
        shapes = [(*lead, module.hidden_size)] * 2
    else:
        lead = (module.num_layers * (2 if module.bidirectional else 1), int(input.batch_sizes[0]))
        shapes = [(*lead, module.proj_size or module.hidden_size), (*lead, module.hidden_size)]
    return [tuple(state.shape) for state in hx] != shapes


def sound_kind(name, hx):
    if name.startswith("LSTM"):
        return isinstance(hx, (tuple, list)) and len(hx) == 2 and all(isinstance(part, torch.Tensor) for part in hx)
    return isinstance(hx, torch.Tensor)


def dtypes(call):
    """Of all tensors among the arguments."""
    found = set()
    for value in call.args:
        parts = value if isinstance(value, (tuple, list)) else [value]
        parts = value[:1] if isinstance(value, PackedSequence) else parts
        found |= {part.dtype for part in parts if isinstance(part, torch.Tensor)}
    return found


def assert_same_construction(theirs, ours):
    if isinstance(ours, Exception) and not isinstance(theirs, Exception):
        assert isinstance(ours, (TypeError, ValueError)), f"torch.nn returned a module, fastrnn raised {ours!r}"
        assert any(word in str(ours) for word in REFUSED_AT_ONCE), (
            f"torch.nn returned a module, fastrnn raised {ours!r}"
        )
    else:
        assert_same_outcome(theirs, ours)


def assert_same_call(construction, module, call, theirs, ours):
    behaviour, _ = difference_meant(construction, module, call) or ("same", None)
    raised = isinstance(ours, Exception)
    assert not isinstance(ours, AssertionError), f"torch.nn: {theirs!r}, fastrnn: a failed check of its own, {ours!r}"
    if behaviour == "raises":
        assert raised, f"torch.nn: {theirs!r}, fastrnn should have raised"
    elif behaviour == "same or raises" and raised and isinstance(theirs, Exception):
        pass  # each its own type
    elif behaviour == "same or free" and isinstance(theirs, Exception):
        pass
    elif behaviour != "either":
        assert_same_outcome(theirs, ours, half=bool(dtypes(call) & set(fuzz_cases.HALF_DTYPES)))


def assert_same_outcome(theirs, ours, half=False):
    """The same results, or the same type of exception."""
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"torch.nn raised {theirs!r}, fastrnn nothing"
        assert type(ours) is type(theirs), f"torch.nn raised {theirs!r}, fastrnn {ours!r}"
        return
    assert not isinstance(ours, Exception), f"torch.nn returned a result, fastrnn raised {ours!r}"
    if isinstance(theirs, nn.Module):
        assert list(theirs.state_dict()) == list(ours.state_dict())
        return
    # torch.nn rounds half types at every step, fastrnn once.
    tolerance = {"rtol": 0.1, "atol": 0.1} if half else {}
    torch.testing.assert_close(flatten(ours), flatten(theirs), equal_nan=True, **tolerance)


@SETTINGS
@given(construction=fuzz_cases.constructions(), data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_any_arguments(construction, data, seed):
    torch.manual_seed(seed)
    theirs, ours = (outcome(lambda space=space: construction.build(space)) for space in (nn, fastrnn))
    assert_same_construction(theirs, ours)
    if isinstance(theirs, Exception) or isinstance(ours, Exception):
        return
    training, grad = data.draw(st.booleans(), "training"), data.draw(st.booleans(), "grad mode")
    ours.load_state_dict(theirs.state_dict())
    call = data.draw(fuzz_cases.calls(theirs, construction.name), "call")
    if may_crash_torch(construction, theirs, call):
        assert isinstance(outcome(lambda: ours(*call.args)), Exception), "fastrnn should have raised"
        return
    results = []
    for module in (theirs, ours):
        module.train(training)
        torch.manual_seed(seed)  # both draw one dropout
        with torch.set_grad_enabled(grad):
            results.append(outcome(lambda module=module: module(*call.args)))
    assert_same_call(construction, theirs, call, *results)
