"""Constructor and call arguments, right, wrong and absurd, for test_fuzz.py to try on torch.nn and on fastrnn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cases import CELLS, LAYERS
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

HALF_DTYPES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, torch.float64, *HALF_DTYPES)

# For each constructor argument what a sound caller passes, and what others do.
SOUND = {
    "input_size": st.integers(1, 6),
    "hidden_size": st.integers(2, 6),
    "num_layers": st.integers(1, 3),
    "bias": st.booleans(),
    "batch_first": st.booleans(),
    "dropout": st.sampled_from((0.0, 0, 0.5, 1.0)),
    "bidirectional": st.booleans(),
    "proj_size": st.sampled_from((0, 1)),
    "nonlinearity": st.sampled_from(("tanh", "relu")),
    "device": st.sampled_from((None, "cpu", torch.device("cpu"))),
    "dtype": st.sampled_from((None, *DTYPES)),
}
NONSENSE = (0, -1, 1, 2.0, 0.5, -0.1, 1.5, float("nan"), True, False, None, "3", "tanh", "no", (2,), np.int64(3), 7)
ABSURD = dict.fromkeys(SOUND, st.sampled_from(NONSENSE)) | {
    # Numbers stand for devices, of which a machine may have any number.
    "device": st.sampled_from(("abacus", "meta")),
    "dtype": st.sampled_from((torch.int64, torch.bool, "float32", 3)),
}
LAYER_ARGUMENTS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
ARGUMENTS = {
    "RNN": (*LAYER_ARGUMENTS[:3], "nonlinearity", *LAYER_ARGUMENTS[3:]),
    "LSTM": (*LAYER_ARGUMENTS, "proj_size"),
    "GRU": LAYER_ARGUMENTS,
    "RNNCell": ("input_size", "hidden_size", "bias", "nonlinearity"),
    "LSTMCell": ("input_size", "hidden_size", "bias"),
    "GRUCell": ("input_size", "hidden_size", "bias"),
}


@dataclass
class Construction:
    """``getattr(torch.nn, name)(*args, **kwargs)``."""

    name: str
    args: tuple
    kwargs: dict

    def build(self, space):
        return getattr(space, self.name)(*self.args, **self.kwargs)


@dataclass
class CallArguments:
    """``module(*args)``, and what is odd about args, as test_fuzz.py's list of differences asks."""

    args: tuple
    oddities: frozenset


@st.composite
def constructions(draw):
    name = draw(st.sampled_from((*LAYERS, *CELLS)))
    table = SOUND
    values = {}
    # One in three has something wrong, mostly one thing.
    wrong = draw(st.sampled_from((0, 0, 0, 0, 1, 1, 3)))
    absurd = set(draw(st.permutations(list(SOUND)))[:wrong])
    for key in ARGUMENTS[name]:
        given = key in ("input_size", "hidden_size") or draw(st.booleans())
        if given or key in absurd:
            values[key] = draw((ABSURD if key in absurd else table)[key])
    in_order = []
    positional = draw(st.integers(0, len(ARGUMENTS[name])))
    for key in ARGUMENTS[name][:positional]:
        if key not in values:
            break
        in_order.append(values.pop(key))
    for key in ("device", "dtype"):
        if key in absurd or draw(st.booleans()):
            values[key] = draw((ABSURD if key in absurd else table)[key])
    if "proj_size" in absurd and name != "LSTM":
        values["proj_size"] = draw(ABSURD["proj_size"])
    return Construction(name, tuple(in_order), values)


@st.composite
def shapes_near(draw, shape):
    """The shape itself, or one with a dimension changed, missing or too many."""
    shape = list(shape)
    change = draw(st.sampled_from(("none",) * 12 + ("size", "size", "size", "drop", "add", "swap")))
    if change != "none" and shape:
        at = draw(st.integers(0, len(shape) - 1))
        if change == "size":
            shape[at] = draw(st.sampled_from((0, 1, shape[at] + 1, max(shape[at] - 1, 0))))
        elif change == "drop":
            del shape[at]
        elif change == "add":
            shape.insert(at, draw(st.integers(0, 2)))
        else:
            shape[0], shape[at] = shape[at], shape[0]
    return tuple(shape)


@st.composite
def tensors(draw, shape, dtype):
    """A tensor of about that shape, mostly of that dtype, laid out in some way."""
    shape = draw(shapes_near([int(size) for size in shape]))  # True is an int, too, but not for randn
    if draw(st.sampled_from((False,) * 15 + (True,))):
        dtype = draw(st.sampled_from((*DTYPES, torch.int64, torch.bool, torch.complex64)))
    value = torch.randn(shape, dtype=torch.float64).to(dtype)
    layout = draw(st.sampled_from(("dense",) * 3 + ("transposed", "strided", "expanded")))
    if layout == "transposed" and value.dim() > 1:
        value = value.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided" and value.dim():
        value = torch.stack((value, value), -1)[..., 0]
    elif layout == "expanded" and value.dim() and value.shape[0]:
        value = value[:1].expand(shape)
    return value


@st.composite
def objects(draw):
    """What is no tensor at all."""
    made = draw(st.sampled_from((None, 3, 1.5, "input", [], (), [1.0, 2.0], {}, "array", "tensors", object)))
    if made == "array":
        return np.zeros((2, 3), dtype=np.float32)
    return (torch.ones(2, 3), torch.ones(2, 3)) if made == "tensors" else made


def layer_shapes(draw, module):
    """Right shapes of input, hx and cx for a layer, and how many rows its batch has (None: a single sequence)."""
    steps, batch = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    rows = module.num_layers * (2 if module.bidirectional else 1)
    if draw(st.sampled_from((False, False, True))):
        return (steps, module.input_size), (rows, module.proj_size or module.hidden_size), (rows, module.hidden_size)
    lead = (batch, steps) if module.batch_first else (steps, batch)
    states = (rows, batch)
    return (
        (*lead, module.input_size),
        (*states, module.proj_size or module.hidden_size),
        (*states, module.hidden_size),
    )


def cell_shapes(draw, module):
    batch = draw(st.sampled_from(((), (0,), (1,), (3,))))
    return (*batch, module.input_size), (*batch, module.hidden_size), (*batch, module.hidden_size)


def packed(draw, value, batch_first):
    """The tensor as a PackedSequence, if it can be one, sound or tampered with."""
    if not isinstance(value, torch.Tensor) or value.dim() < 2 or not value.numel():
        return None
    steps, batch = value.shape[1 if batch_first else 0], value.shape[0 if batch_first else 1]
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    result = pack_padded_sequence(value, torch.tensor(lengths), batch_first, enforce_sorted=False)
    if draw(st.booleans()):
        result = PackedSequence(result.data, result.batch_sizes)  # as if it had been sorted
    return result


def states(draw, name, hx_shape, cx_shape, dtype):
    """hx in the form the layer or cell takes, or in another; and whether it is another."""
    pair = name.startswith("LSTM")
    form = draw(st.sampled_from(("right",) * 8 + ("tensor", "pair", "list", "one", "three", "mixed", "object")))
    if form == "right":
        form = "pair" if pair else "tensor"
    if form == "object":
        return draw(objects())
    hx, cx = draw(tensors(hx_shape, dtype)), draw(tensors(cx_shape, dtype))
    forms = {"tensor": hx, "pair": (hx, cx), "list": [hx, cx], "one": (hx,), "three": (hx, cx, cx), "mixed": (hx, 3)}
    return forms[form]


@st.composite
def calls(draw, module, name):
    """Arguments for this module, mostly near right ones."""
    dtype = next(module.parameters()).dtype
    shapes = layer_shapes if name in LAYERS else cell_shapes
    input_shape, hx_shape, cx_shape = shapes(draw, module)
    oddities = set()
    input: Any = draw(tensors(input_shape, dtype))
    if draw(st.sampled_from((False,) * 19 + (True,))):
        input = draw(objects())
    elif name in LAYERS and draw(st.sampled_from((False, False, False, True))):
        as_packed = packed(draw, input, module.batch_first)
        if as_packed is not None:
            input = as_packed
            oddities.add("packed")
            batch = int(input.batch_sizes[0])
            hx_shape, cx_shape = (hx_shape[0], batch, hx_shape[-1]), (cx_shape[0], batch, cx_shape[-1])
    if not draw(st.booleans()):
        return CallArguments((input,), frozenset(oddities))
    return CallArguments((input, states(draw, name, hx_shape, cx_shape, dtype)), frozenset(oddities))
