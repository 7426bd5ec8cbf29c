"""What rounded weights are worth in inference: pack_weights(dtype), against our float32 and the peers in low precision.

T = B = 1 is one step of fastrnn.Stream. Every implementation's output is compared with float64's before it is timed.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import machine
import onnx_runtimes
import results
import torch
from paired import SETTLE_SECONDS, Paired, compare
from report import Table, milliseconds, times_as_fast
from torch import Tensor, nn
from unavailable import UnavailableError
from workloads import CELLS, Case, Problem, build, load

import fastrnn

CASES = (
    Case(100, 1, 512, 512),
    Case(100, 1, 1024, 1024),
    Case(100, 16, 256, 256),
    Case(100, 64, 512, 512),
    Case(1, 1, 256, 256),
    Case(1, 1, 512, 512),
    Case(1, 1, 1024, 1024),
)
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "int8": torch.int8}
# A share of the output's RMS: what is further off computes something else.
MOST_ERROR = 0.1

Run = Callable[[], Any]


def ours(problem: Problem, dtype: torch.dtype | None) -> Run:
    """Our layer with packed weights; of a single step, a stream's."""
    layer = load(getattr(fastrnn, problem.cell)(problem.case.input_size, problem.case.hidden_size), problem.weights)
    layer.eval().pack_weights(dtype)
    if problem.case.steps == problem.case.batch == 1:
        stream, sample = fastrnn.Stream(layer), problem.input[0]
        stream.step(sample)  # the first one is the layer's
        zeros = torch.zeros_like(stream.state[0] if problem.cell == "LSTM" else stream.state)

        def step() -> Tensor:
            stream.state = (zeros, zeros) if problem.cell == "LSTM" else zeros
            return stream.step(sample)

        return step

    def infer() -> Tensor:
        with torch.inference_mode():
            return layer(problem.input)[0]

    return infer


def quantized_torch(problem: Problem, threads: int) -> Run:
    """quantize_dynamic of torch.nn's layer."""
    quantize = getattr(torch.ao.quantization, "quantize_dynamic", None)
    if quantize is None or problem.cell == "RNN":
        raise UnavailableError("torch has no quantize_dynamic for it")
    layer = load(getattr(nn, problem.cell)(problem.case.input_size, problem.case.hidden_size), problem.weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is being retired
        model = quantize(nn.Sequential(layer), {type(layer)}, dtype=torch.qint8)

    def infer() -> Tensor:
        with torch.inference_mode():
            return model(problem.input)[0]

    return infer


def onnx_runtime(problem: Problem, threads: int) -> Run:
    run = onnx_runtimes.OnnxRuntime(threads).prepare(problem)
    return lambda: run()[0]


def quantized_onnx_runtime(problem: Problem, threads: int) -> Run:
    """ONNX Runtime's DynamicQuantizeLSTM."""
    runtime = onnx_runtimes.OnnxRuntime(threads)
    if problem.cell != "LSTM":
        raise UnavailableError("onnxruntime quantizes LSTM alone")
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        wide, narrow = Path(folder) / "wide.onnx", Path(folder) / "narrow.onnx"
        wide.write_bytes(onnx_runtimes.graph(problem))
        quantize_dynamic(wide, narrow, op_types_to_quantize=["LSTM"])
        session = runtime.session(narrow.read_bytes())
    feed = {"X": problem.input.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino_in(precision: str) -> Callable[[Problem, int], Run]:
    def make(problem: Problem, threads: int) -> Run:
        run = onnx_runtimes.OpenVino(threads, precision).prepare(problem)
        return lambda: run()[0]

    return make


PEERS: Mapping[str, tuple[str, Callable[[Problem, int], Run]]] = {
    "torch int8": ("int8", quantized_torch),
    "onnxruntime": ("float32", onnx_runtime),
    "onnxruntime int8": ("int8", quantized_onnx_runtime),
    "openvino bf16": ("bfloat16", openvino_in("bf16")),
}
"""By name: our precision to compare it with, and what makes it. OpenVINO has no int8 but for models that NNCF wrote."""


def error_of(run: Run, expected: Tensor) -> float:
    """RMS of the error as a share of the output's."""
    output = torch.as_tensor(run()).double().reshape(expected.shape)
    return ((output - expected).square().mean() / expected.square().mean()).sqrt().item()


def in_float64(problem: Problem) -> Tensor:
    layer = load(getattr(nn, problem.cell)(problem.case.input_size, problem.case.hidden_size), problem.weights)
    with torch.no_grad():
        return copy.deepcopy(layer).double()(problem.input.double())[0]


def measure(problem: Problem, threads: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each comparison: of our low precisions with our float32, and with peers of the same one."""
    expected = in_float64(problem)
    own = {name: ours(problem, dtype) for name, dtype in DTYPES.items()}
    errors = {name: error_of(run, expected) for name, run in own.items()}
    others: dict[str, tuple[str, Run, float]] = {}
    for name, (precision, make) in PEERS.items():
        try:
            run = make(problem, threads)
        except UnavailableError:
            continue
        error = error_of(run, expected)
        if error > MOST_ERROR:
            print(f"{name} is off by {error:.2g} of the output in {problem.cell} {problem.case}: left out")
            continue
        others[name] = precision, run, error
    comparisons = [(name, "float32", own["float32"], errors["float32"]) for name in ("bfloat16", "int8")]
    comparisons += [(precision, name, run, error) for name, (precision, run, error) in others.items()]
    rows = []
    for precision, name, run, error in comparisons:
        pair = compare(own[precision], run, seconds, settle=SETTLE_SECONDS if name in PEERS else 0.0)
        what = {"cell": problem.cell, **asdict(problem.case), "threads": threads, "dtype": precision, "other": name}
        rows.append({**what, "error": errors[precision], "other_error": error, **results.pair_columns(pair)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--cases", type=Case.parse, nargs="+", default=CASES, metavar="T,B,I,H")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each comparison (default: 0.5)")
    args = machine.begin(parser, several_threads=True)
    rows = []
    table = Table(
        "Inference with rounded weights: times as fast as the other, and RMS errors against float64",
        ["", "T,B,I,H", "threads", "ours", "other", "ms", "times as fast", "error", "other's"],
    )
    for threads, cell, case in itertools.product(args.threads, args.cells, args.cases):
        torch.set_num_threads(threads)
        measured = measure(build(cell, case, "inference"), threads, args.seconds)
        for row in measured:
            pair: Paired = results.pair_of({name: str(value) for name, value in row.items()})
            figures = milliseconds(pair.ours), times_as_fast(pair), f"{row['error']:.1e}", f"{row['other_error']:.1e}"
            table.rows.append([cell, str(case), str(threads), row["dtype"], row["other"], *figures])
        rows += measured
    table.show()
    machine.save(args, rows)


if __name__ == "__main__":
    main()
