// fastrnn._C: what Python asks about the build and the cells. Tensors go through torch.ops.fastrnn.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/team/cores.h"
#include "ops/cpu_device.h"

namespace fastrnn {

namespace py = pybind11;

namespace {

// The exception that a signal's handler raised while a kernel ran, until Python takes it.
PyObject* interruption = nullptr;

// Called by kernels, on the thread that called the op; torch has released the interpreter's lock.
bool python_signal_arrived() {
  const py::gil_scoped_acquire lock;
  if (PyErr_CheckSignals() == 0) return false;
  PyObject *type, *value, *trace;
  PyErr_Fetch(&type, &value, &trace);
  PyErr_NormalizeException(&type, &value, &trace);
  Py_XDECREF(type);
  Py_XDECREF(trace);
  Py_XDECREF(interruption);
  interruption = value;
  return true;
}

py::object take_interruption() {
  if (!interruption) return py::none();
  return py::reinterpret_steal<py::object>(std::exchange(interruption, nullptr));
}

// What Python knows of every cell, by name and in the order of the list.
py::dict describe_cells() {
  py::dict cells;
  for (const CellFacts& facts : kCellFacts.facts) {
    py::dict cell;
    cell["inner"] = facts.inner_name.text;
    cell["gates"] = facts.gates;
    cell["states"] = facts.states();
    cell["plain"] = facts.plain;
    cell["peepholes"] = facts.inner_per_unit_weights;
    cell["norm_weights"] = facts.per_unit_weights - facts.inner_per_unit_weights;
    cells[facts.name.text] = cell;
  }
  return cells;
}

// The words for each of the numbers that the op _plan returns.
py::dict plan_words() {
  const auto list = [](const auto& words) { return std::vector<std::string>(std::begin(words), std::end(words)); };
  py::dict words;
  words["path"] = list(kPathWords);
  words["weights"] = list(kWeightWords);
  words["input_product"] = list(kInputProductWords);
  words["gemm"] = list(kGemmWords);
  words["reason"] = list(kReasonWords);
  return words;
}

// Values that forward keeps for backward, per row and hidden unit. Half types keep c in float32.
int64_t reserve_width(const std::string& name, bool half) {
  ops::LayerShape shape{};
  shape.layers = shape.directions = shape.rows = shape.dims.hidden_size = 1;
  const std::optional<CellKind> cell = find_cell(name);
  if (!cell) throw std::invalid_argument("unknown cell '" + name + "'");
  return ops::ReserveLayout(cell_facts(*cell), shape, half ? 2 : 1).size();
}

}  // namespace

}  // namespace fastrnn

PYBIND11_MODULE(_C, m) {
  using namespace fastrnn;
  cpu::kernels();  // a wrong FASTRNN_ISA must show at import
  m.doc() = "Build facts and cells of fastrnn's kernels.";
  m.attr("isa") = cpu::kernels().isa;
  m.attr("compiler") = __VERSION__;
  m.attr("cells") = describe_cells();
  m.attr("plan_words") = plan_words();
  cpu::interrupt_requested = &python_signal_arrived;
  m.def("take_interruption", &take_interruption);
  m.def("force_chunk_rows", [](int64_t rows) { ops::forced_chunk_rows = rows; });
  m.def("force_usable_cores", [](int cores) { cpu::forced_usable_cores = cores; });
  m.def("force_input_steps", [](int64_t steps) { cpu::forced_input_steps = steps; });
  m.def("force_panel_gemms", [](std::optional<bool> panels) {
    cpu::forced_gemm_code =
        panels ? std::optional(*panels ? cpu::GemmCode::kPanels : cpu::GemmCode::kTorch) : std::nullopt;
  });
  m.def("reserve_width", &reserve_width, py::arg("cell"), py::arg("half") = false);
#ifdef FASTRNN_WITH_CUDA
  m.attr("cuda_built") = true;
  m.attr("cuda_architectures") = FASTRNN_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_built") = false;
  m.attr("cuda_architectures") = "";
#endif
}
