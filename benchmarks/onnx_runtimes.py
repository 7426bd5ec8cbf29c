"""ONNX Runtime and OpenVINO, for inference, on an ONNX graph of one layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from unavailable import UnavailableError, version_of
from workloads import GATES, Problem

# Which of torch's gates stands where in ONNX's weights: i o f c, and z r h.
GATE_ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 3, 1, 2)}
STATES = ("initial_h", "initial_c")  # ONNX's names of them
# Operators as ONNX 1.13 has them, in files that every runtime since 2023 reads.
OPSET, IR_VERSION = 18, 8


class OnnxRuntime:
    name, own_threads = "onnxruntime", True

    def __init__(self, threads: int) -> None:
        self.version = version_of("onnxruntime", "onnx")
        self.threads = threads
        if "FASTRNN_ISA" in os.environ:
            raise UnavailableError("it cannot be held to an instruction set")

    def session(self, model: bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def prepare(self, problem: Problem) -> Callable[[], Sequence[Any]]:
        session = self.session(graph(problem))
        feed = {"X": problem.input.numpy()}
        return lambda: session.run(None, feed)

    def stream(self, problem: Problem) -> Callable[[], Any]:
        """A function that runs the layer on from where it left off, and gives the output."""
        session = self.session(graph(problem, stateful=True))
        feed = {"X": problem.input.numpy(), **_zero_states(problem)}

        def step() -> Any:
            output, *states = session.run(None, feed)
            feed.update(zip(STATES, states, strict=False))
            return output

        return step


class OpenVino:
    name, own_threads = "openvino", True

    def __init__(self, threads: int, precision: str = "f32") -> None:
        self.version = version_of("openvino", "onnx")
        self.threads, self.precision = threads, precision

    def compiled(self, model: bytes) -> Any:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision,  # unasked, it takes bf16 where the processor has it
        }
        return core.compile_model(core.read_model(model), "CPU", options)

    def prepare(self, problem: Problem) -> Callable[[], Sequence[Any]]:
        compiled = self.compiled(graph(problem))
        request, feed = compiled.create_infer_request(), [problem.input.numpy()]
        outputs = list(compiled.outputs)

        def infer() -> Sequence[Any]:
            results = request.infer(feed, share_inputs=True, share_outputs=True)
            return [results[output] for output in outputs]

        return infer

    def stream(self, problem: Problem) -> Callable[[], Any]:
        """A function that runs the layer on from where it left off, and gives the output."""
        compiled = self.compiled(graph(problem, stateful=True))
        request, outputs = compiled.create_infer_request(), list(compiled.outputs)
        input, states = problem.input.numpy(), list(_zero_states(problem).values())

        def step() -> Any:
            results = request.infer([input, *states], share_inputs=True)
            states[:] = [results[output] for output in outputs[1:]]
            return results[outputs[0]]

        return step


def _zero_states(problem: Problem) -> dict[str, Any]:
    """What a stateful graph begins with, by the names of its inputs."""
    return {name: torch.zeros_like(state).numpy() for name, state in zip(STATES, problem.states, strict=False)}


def graph(problem: Problem, stateful: bool = False) -> bytes:
    """The layer as an ONNX model: X to Y, Y_h and, for the LSTM, Y_c; with the states as inputs if it is stateful.

    UnavailableError unless it is for inference.
    """
    if problem.training:
        raise UnavailableError("inference only")
    from onnx import TensorProto, helper, numpy_helper

    case, cell = problem.case, problem.cell
    w_ih, w_hh, b_ih, b_hh = (_reorder(weight, cell) for weight in problem.weights)
    weights = {"W": w_ih[None], "R": w_hh[None], "B": torch.cat([b_ih, b_hh])[None]}
    outputs = {"Y": (case.steps, 1, case.batch, case.hidden_size)}
    for name in ("Y_h", "Y_c")[: len(problem.states)]:
        outputs[name] = (1, case.batch, case.hidden_size)
    options = {"linear_before_reset": 1} if cell == "GRU" else {}
    inputs = {"X": (case.steps, case.batch, case.input_size)}
    states = STATES[: len(problem.states)] if stateful else ()
    inputs |= dict.fromkeys(states, (1, case.batch, case.hidden_size))
    operands = ["X", *weights, *(["", *states] if stateful else [])]  # "": no lengths
    node = helper.make_node(cell, operands, list(outputs), hidden_size=case.hidden_size, **options)
    model = helper.make_model(
        helper.make_graph(
            [node],
            cell,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(weight.numpy(), name) for name, weight in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return model.SerializeToString()


def _reorder(weight: torch.Tensor, cell: str) -> torch.Tensor:
    """A weight or bias with its gates in ONNX's order."""
    return weight.unflatten(0, (GATES[cell], -1))[list(GATE_ORDER[cell])].flatten(0, 1).contiguous()
