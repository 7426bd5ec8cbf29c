"""The C++ of cells of one's own, compiled for scalars, against the graphs that it is printed from."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from written_cells import CELLS, FUNCTIONS, MORE_FUNCTIONS

from fastrnn._cell.derive import derive, evaluate_backward
from fastrnn._cell.emit import cell_name, header
from fastrnn._cell.graph import evaluate, evaluate_nodes
from fastrnn._cell.nodes import leaf
from fastrnn._cell.trace import trace

CSRC = Path(__file__).parents[1] / "csrc"
UNITS = 40

# Reads for each unit its arguments, and the gradients of its results; prints results, then gradients.
DRIVER = """
#include <cstdio>
#include <cstring>
#include <utility>

using namespace fastrnn;
using namespace fastrnn::own;

double take() {
  double value = 0;
  return std::scanf("%lf", &value) == 1 ? value : 0;
}

template <class Cell>
void run() {
  double x[Cell::kGates], r[Cell::kGates], weights[Cell::kPerUnitWeights + 1];
  Step<double, Cell::kSavedValues> step{};
  for (double& value : x) value = take();
  for (double& value : r) value = take();
  step.h_prev = take();
  for (int k = 0; k < Cell::kCellStates; ++k) step.cell_prev[k] = take();
  for (int k = 0; k < Cell::kPerUnitWeights; ++k) weights[k] = take();
  step.per_unit_weights = weights;
  Cell::forward(x, r, step);
  std::printf("%.17g ", step.h);
  for (int k = 0; k < Cell::kCellStates; ++k) std::printf("%.17g ", step.cell[k]);

  // What else backward reads would be NaN.
  step.h = NAN;
  for (double& value : step.cell) value = NAN;
  StepGrad<double, Cell::kSavedValues, Cell::kPerUnitWeights> grad{};
  for (double& value : grad.saved) value = NAN;
  grad.h = take();
  for (int k = 0; k < Cell::kCellStates; ++k) grad.cell[k] = take();
  Cell::backward(step, grad);
  for (int gate = 0; gate < Cell::kGates; ++gate) std::printf("%.17g ", grad.saved[gate]);
  for (int gate = 0; gate < Cell::kGates; ++gate) std::printf("%.17g ", grad.saved[Cell::recurrent_slot(gate)]);
  std::printf("%.17g ", Cell::kCarriesH ? grad.h : 0.0);
  for (int k = 0; k < Cell::kCellStates; ++k) std::printf("%.17g ", grad.cell[k]);
  for (int k = 0; k < Cell::kPerUnitWeights; ++k) std::printf("%.17g ", grad.per_unit_weights[k]);
  std::printf("\\n");
}
"""

MAIN_CASE = """\
  if (!std::strcmp(arguments[1], "{name}"))
    for (int k = 0; k < {units}; ++k) run<{name}Cell>();
"""


def _graphs():
    graphs = {name: written.trace() for name, written in CELLS.items()}
    for name, function in (FUNCTIONS | MORE_FUNCTIONS).items():
        graphs["of_" + re.sub(r"\W", "_", name)] = trace(
            lambda x, h, function=function: function(*x) + 0 * h, 3, recurrent="none"
        )
    return graphs


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cases = []
    for name, graph in _graphs().items():
        (folder / f"{name}.h").write_text(header(graph, derive(graph), name))
        cases.append(name)
    includes = "".join(f'#include "{name}.h"\n' for name in cases)
    calls = "".join(MAIN_CASE.format(name=name, units=UNITS) for name in cases)
    (folder / "main.cpp").write_text(f"{includes}{DRIVER}int main(int, char** arguments) {{\n{calls}}}\n")
    compiler = shutil.which("g++") or "c++"
    flags = ("-std=c++20", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{CSRC}", f"-I{folder}")
    subprocess.run([compiler, *flags, "main.cpp", "-o", "main"], cwd=folder, check=True)
    return folder / "main"


@pytest.mark.parametrize("name", _graphs())
def test_header_computes_what_the_graph_computes(name, program):
    graph = _graphs()[name]
    backward = derive(graph)
    gates, dense = len(graph.gates), graph.recurrent == "dense"
    x, r, states, weights, grads = (
        torch.randn(count, UNITS, dtype=torch.double)
        for count in (gates, gates, len(graph.states), graph.per_unit_weights, len(graph.results))
    )
    states = states.abs() + 0.5  # sLSTM divides by one
    if name not in CELLS:
        x *= 3
        x[:, ::4] = torch.tensor([-torch.inf, -200, -3, -1, -0.0, 0, 1, 3, 200, torch.inf])
        x[1:, 0], x[:, 1] = -1, torch.nan
        if name.startswith("of_pow") and name.endswith(("_5", "_7")):
            x[x == -torch.inf] = -9  # of which the kernels' fractional powers are NaN, as of other negative numbers
    given = torch.randn(UNITS, dtype=torch.double) if graph.reads_input else None
    results = evaluate(graph, x, r, states, weights, given)
    leaves = {
        leaf(kind, k): value
        for kind, values in (("x", x), ("r", r), ("state", states), ("weight", weights))
        for k, value in enumerate(values)
    }
    if given is not None:
        leaves[leaf("input")] = given
    kept = evaluate_nodes(backward.kept, leaves, states[0])
    gradients = [*evaluate_backward(backward, kept, states, weights, grads)]
    of_x, of_r = gradients[:gates], gradients[gates : 2 * gates] if dense else gradients[:gates]
    of_states = gradients[gates * (1 + dense) :][: len(graph.states)]
    of_weights = gradients[gates * (1 + dense) + len(graph.states) :][: graph.per_unit_weights]

    # In the kernels the input is one more gate, and an output one more state, the last.
    nothing = torch.zeros(UNITS, dtype=torch.double)
    more = [] if given is None else [given]

    def in_kernels(values):
        return values if graph.output is None else [*values[1:], values[0]]

    before = [*states, *([] if graph.output is None else [nothing])]
    arguments = [*x, *more, *r, *[nothing for _ in more], *before, *weights, *in_kernels([*grads])]
    of_input = [gradients[-1] for _ in more]
    after = [*of_states, *([] if graph.output is None else [nothing])]
    expected = [*in_kernels([*results]), *of_x, *of_input, *of_r, *of_input, *after, *of_weights]
    lines = "\n".join(" ".join(map(repr, row)) for row in torch.stack(arguments, 1).tolist())
    done = subprocess.run([program, name], input=lines, capture_output=True, text=True, check=True)
    rows = [[float(word) for word in line.split()] for line in done.stdout.splitlines()]
    actual = torch.tensor(rows, dtype=torch.double)
    torch.testing.assert_close(actual, torch.stack(expected, 1), rtol=1e-12, atol=1e-13, equal_nan=True)


def test_names_in_the_kernels_are_short():
    graph = CELLS["elman"].trace()
    name = cell_name(graph, "A" * 40)
    assert name == "a" * 20 + "@" + graph.hash
    assert len(name) < 32
