"""What a call may be given: every check on the arguments, and its message, once.

The exception types are those torch.nn raises for the same mistake. Checks run at every call, so each is a comparison of
attributes; text is put together only once something is wrong. The kernels check shapes of weights themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from .. import _native
from .._ops.cells import CELLS

SUPPORTED_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

# What messages call a cell: its module's name.
LAYER_NAMES = {"rnn_tanh": "RNN", "rnn_relu": "RNN", "lstm": "LSTM", "gru": "GRU", "jordan": "JordanRNN"}
STATE_NAMES: dict[str, str] = {}  # of cells that users wrote, as they would write hx
CELL_NAMES = {"rnn_tanh": "RNNCell", "rnn_relu": "RNNCell", "lstm": "LSTMCell", "gru": "GRUCell"}


def check_tensors(
    name: str, input: Tensor, weights: Sequence[Tensor], states: tuple[Tensor, ...] | None, mismatch: type[Exception]
) -> None:
    """Raise unless input, weights and states share one dtype and one device, and we have kernels for both.

    ``mismatch`` is raised for an input whose dtype is not the weights': torch.nn raises ValueError in layers and
    RuntimeError in cells.
    """
    dtype = input.dtype
    tensors = weights if states is None else (*weights, *states)
    fits = dtype in SUPPORTED_DTYPES
    try:
        if input.is_cpu:
            for tensor in tensors:
                fits = fits and tensor.is_cpu and tensor.dtype == dtype
        else:
            fits = fits and input.is_cuda and _native.cuda_built
            device = input.device
            for tensor in tensors:
                fits = fits and tensor.device == device and tensor.dtype == dtype
    except AttributeError:  # of None
        fits = False
    if not fits:  # or on the meta device, or under autocast: no hurry then
        _check_input_and_weights(name, input, weights, mismatch)
        for state in states or ():
            check_state(name, input, state)


def _check_input_and_weights(name: str, input: Tensor, weights: Sequence[Tensor], mismatch: type[Exception]) -> None:
    dtype, device = input.dtype, input.device
    for weight in weights:
        if not isinstance(weight, Tensor):
            # As the ops of torch.nn raise. None is what a parameter may be set to.
            raise TypeError(
                f"{name}: a weight is {weight}, not a Tensor. Set a Parameter again; for no biases, make the module "
                "with bias=False"
            )
        if weight.device != device:
            raise RuntimeError(
                f"{name}: input and weights must be on one device, but input is on {device} and a weight on "
                f"{weight.device}. Move one: input.to({str(weight.device)!r}) or module.to({str(device)!r})"
            )
    first = weights[0].dtype
    for weight in weights:
        if weight.dtype != first:
            raise RuntimeError(
                f"{name}: weights must share one dtype, but got {first} and {weight.dtype}. Convert: module.to({first})"
            )
    if dtype != first and not torch._C._is_any_autocast_enabled():
        # Of integers, which modules refuse to be, or complex numbers no model can be made.
        other = f", or convert model: model.to({dtype})" if dtype in SUPPORTED_DTYPES else ""
        raise mismatch(
            f"{name}: input dtype ({dtype}) does not match weight dtype ({first}). "
            f"Convert input: input.to({first}){other}"
        )
    lack = missing_kernels(dtype, device)
    if lack is not None:
        raise NotImplementedError(f"{name}: {lack[0]}. {lack[1]}")


def missing_kernels(dtype: torch.dtype, device: torch.device) -> tuple[str, str] | None:
    """Why we have no kernels for that dtype and device, and what to do; None if we have."""
    if dtype not in SUPPORTED_DTYPES:
        supported = ", ".join(map(str, SUPPORTED_DTYPES))
        return f"fastrnn has no kernels for {dtype}; it supports {supported}", "Convert with .float() or .double()"
    if device.type == "cuda" and not _native.cuda_built:
        return (
            f"the weights are on {device}, but fastrnn was built without CUDA",
            "Build it where torch has CUDA and nvcc is found: pip install --no-build-isolation --force-reinstall "
            "--no-deps . (in a checkout of fastrnn); or move model and input: .to('cpu')",
        )
    if device.type not in ("cpu", "cuda", "meta"):
        return (
            f"fastrnn has no kernels for device {str(device)!r}; it supports 'cpu', 'cuda' and 'meta'",
            "Move model and input: .to('cpu')",
        )
    return None


def check_state(name: str, input: Tensor, state: Tensor, argument: str = "hx", what: str = "hidden state") -> None:
    """Raise unless a state, one of the argument of that name, has the input's device and dtype."""
    if state.device != input.device:
        raise RuntimeError(
            f"{name}: input and {what} must be on one device, but input is on {input.device} and the {what} on "
            f"{state.device}. Move it: {argument}.to({str(input.device)!r})"
        )
    if state.dtype != input.dtype and not torch._C._is_any_autocast_enabled():
        raise RuntimeError(
            f"{name}: {what} must have the input's dtype {input.dtype}, got {state.dtype}. "
            f"Convert it: {argument}.to({input.dtype})"
        )


def check_sizes(name: str, steps: int, features: int, input_size: int) -> None:
    """Raise unless the input has steps, and the features the weights were made for."""
    if features != input_size:
        raise RuntimeError(
            f"{name}: input.size(-1) must be equal to input_size. Expected {input_size}, got {features}. "
            "Check the input's last dimension, or make the layer with another input_size"
        )
    if steps == 0:
        raise RuntimeError(
            f"{name}: expected sequence length to be larger than 0, got 0. Leave empty sequences out of the batch"
        )


def unpack_hx(
    cell: str, name: str, hx: Tensor | Sequence[Tensor], argument: str = "hx", pair: str = "(hx, cx)"
) -> tuple[Tensor, ...]:
    """hx as a tuple of the cell's states: a tensor, or for the LSTM a tuple or list of two (perhaps the same twice).

    ``argument`` and ``pair`` are what the caller knows it by.
    """
    count = CELLS[cell].given_states
    states = (hx,) if count == 1 else hx
    fits = isinstance(states, (tuple, list)) and len(states) == count
    if not (fits and all(isinstance(state, Tensor) for state in states)):
        own_pair = STATE_NAMES.get(cell)
        _refuse_hx(count, name, hx, argument, own_pair or pair, own_pair is not None)
    return tuple(states)


def _refuse_hx(count: int, name: str, hx: object, argument: str, pair: str, is_own: bool) -> NoReturn:
    """Say what is wrong with hx, which should be so many states."""
    if count == 1:
        hint = f": only LSTM takes {pair}" if isinstance(hx, (tuple, list)) and not is_own else ""
        raise AttributeError(f"{name}: {argument} must be a Tensor, got {_describe(hx)}{hint}")
    is_cell = name in CELL_NAMES.values()
    if isinstance(hx, Tensor):
        # torch.nn.LSTM trips over hx[0].dim(), torch.nn.LSTMCell tells the type apart.
        mismatch = TypeError if is_cell else RuntimeError
        hint = "" if is_own else ", e.g. with zeros for c"
        raise mismatch(f"{name}: {argument} must be a tuple {pair}, got a Tensor. Pass {pair}{hint}")
    if isinstance(hx, (tuple, list)) and len(hx) != count:
        # torch.nn.LSTM trips over hx[1].
        wrong_count = IndexError if len(hx) < count and not is_cell else RuntimeError
        what = "two hidden states" if count == 2 else f"{count} states"
        raise wrong_count(f"{name}: {argument} must be {what} {pair}, got {len(hx)}")
    # As torch.nn raises, from hx[0].dim().
    raise AttributeError(f"{name}: {argument} must be a tuple of Tensors {pair}, got {_describe(hx)}")


def _describe(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of ({', '.join(type(v).__name__ for v in value)})"
    return type(value).__name__


def describe_module(module: object) -> str:
    """What a message calls something that is no layer of ours; a layer of torch.nn comes with how to make it ours."""
    kind = type(module)
    if not kind.__module__.startswith("torch.nn."):
        return kind.__name__
    hint = (
        ". Make it fastrnn's first: fastrnn.convert(layer)" if isinstance(module, nn.RNNBase | nn.RNNCellBase) else ""
    )
    return f"torch.nn.{kind.__name__}{hint}"


def refuse_input_type(name: str, value: object, accepted: str) -> NoReturn:
    """torch.nn raises AttributeError here too, from ``input.dim()``."""
    raise AttributeError(f"{name}: input must be a {accepted}, got {_describe(value)}")


def refuse_lengths(name: str, kind: str) -> NoReturn:
    """A packed or nested input knows its lengths."""
    raise ValueError(f"{name}: a {kind} has lengths of its own. Pass lengths only with a padded batch")


_STATES = ("hx", "cx", "states[2]", "states[3]")  # what messages call them


def refuse_states(
    name: str, states: tuple[Tensor, ...], expected: tuple[tuple[int, ...], ...], batch_first: bool
) -> NoReturn:
    """Say what is wrong with a layer's states, given the shapes expected of hx and cx."""
    rank = len(expected[0])
    if any(state.dim() != rank for state in states):
        kind = "batched 3-D" if rank == 3 else "unbatched 2-D"
        what = "hx and cx" if len(states) > 1 else "hx"
        got = " and ".join(f"{state.dim()}-D" for state in states)
        raise RuntimeError(f"{name}: for {kind} input, {what} should also be {rank}-D but got {got}")
    label, shape, got = _first_misfit(states, expected)
    layout = f"(num_layers * num_directions, {'batch, ' if rank == 3 else ''}features)"
    hint = ", whatever batch_first says" if batch_first and rank == 3 else ""
    raise RuntimeError(f"{name}: expected {label} size {shape}, got {got}. Its shape is {layout}{hint}")


def refuse_cell_states(name: str, states: tuple[Tensor, ...], expected: tuple[int, ...]) -> NoReturn:
    """Say what is wrong with a cell's states, given the shape expected of each."""
    for label, state in zip(_STATES, states, strict=False):
        if state.dim() not in (1, 2):
            raise ValueError(f"{name}: expected {label} to be 1D (H,) or 2D (B, H), got {state.dim()}D")
    label, shape, got = _first_misfit(states, (expected,) * len(states))
    layout = "(batch, hidden_size)" if len(expected) == 2 else "(hidden_size,), as the input has no batch"
    raise RuntimeError(f"{name}: expected {label} size {shape}, got {got}. Its shape is {layout}")


def _first_misfit(states: tuple[Tensor, ...], expected: tuple[tuple[int, ...], ...]) -> tuple[str, str, str]:
    for label, state, shape in zip(_STATES, states, expected, strict=False):
        if state.shape != shape:
            return label, str(tuple(shape)), str(tuple(state.shape))
    raise AssertionError("every state fits")


def check_weight_count(name: str, weights: Sequence[Tensor], expected: int) -> None:
    """Raise unless ``weights`` holds what the options ask for."""
    if len(weights) != expected:
        raise ValueError(
            f"{name}: weights must hold {expected} tensors for these options, got {len(weights)}: for each layer and "
            "direction w_ih, w_hh, then b_ih, b_hh if bias, then w_hr if proj_size > 0"
        )


def check_nonlinearity(nonlinearity: str) -> str:
    """The Elman cell of that name."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.")
    return "rnn_" + nonlinearity


def hidden_size_of(cell: str, weights: Sequence[Tensor]) -> int:
    """H, read from the weights of one direction."""
    return CELLS[cell].hidden_size_of_weights(weights)
