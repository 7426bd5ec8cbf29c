// fastrnn._C: what a person asks about the build and about how a call will run. Tensors go through torch.ops.fastrnn.
#include "python.h"

#include <stdexcept>
#include <utility>

#include "ops/cpu_device.h"

namespace fastrnn {

CellKind cell_named(const std::string& name) {
  const std::optional<CellKind> cell = find_cell(name);
  if (!cell) throw std::invalid_argument("unknown cell '" + name + "'");
  return *cell;
}

namespace {

// In the order of WeightSource.
constexpr const char* weight_sources[] = {"in place", "packed", "frozen"};

template <class T, class W = T>
py::dict plan(CellKind cell, int64_t layers, int64_t directions, int64_t steps, int64_t batch, int64_t rows,
              int64_t input_size, int64_t hidden_size, int64_t recurrent_size, bool projected, bool backward,
              bool frozen) {
  ops::LayerShape shape{};
  shape.layers = layers;
  shape.directions = directions;
  shape.frozen = frozen;
  shape.steps = steps;
  shape.batch = batch;
  shape.rows = rows;
  shape.first_input_size = input_size;
  shape.dims = {batch, hidden_size, recurrent_size, projected};
  const cpu::Choice choice = ops::plan_pass(shape, cell_facts(cell).gates, sizeof(T), backward, sizeof(W));
  // The tile does not depend on how weights are stored.
  const auto& kernels = cpu::cell_kernels<T>(cpu::kernels(), cell);
  const int* tile = backward ? kernels.backward_tile : kernels.forward_tile;
  const cpu::Split split = choice.plan.split;
  const bool runs_apart = split == cpu::Split::kDirections || split == cpu::Split::kLayers;
  py::dict out;
  out["path"] = "fused";
  out["isa"] = cpu::kernels().isa;
  out["tile"] = std::to_string(tile[0]) + "x" + std::to_string(tile[1] * cpu::kernels().vector_bytes / sizeof(T));
  out["threads"] = runs_apart ? 1 : choice.plan.threads;
  out["weights"] = weight_sources[static_cast<int>(choice.plan.weights)];
  out["input_product"] = backward ? "" : choice.plan.input_steps > 0 ? "in the loop" : "ahead";
  out["reason"] = choice.reason;
  return out;
}

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
    cell["peepholes"] = facts.inner_unit_weights;
    cell["norm_weights"] = facts.unit_weights - facts.inner_unit_weights;
    cells[facts.name.text] = cell;
  }
  return cells;
}

// Values that forward keeps for backward, per row and hidden unit. Half types keep c in float32.
int64_t reserve_width(const std::string& name, bool half) {
  ops::LayerShape shape{};
  shape.layers = shape.directions = shape.rows = shape.dims.hidden_size = 1;
  return ops::ReserveLayout(cell_facts(cell_named(name)), shape, half ? 2 : 1).size();
}

}  // namespace

}  // namespace fastrnn

PYBIND11_MODULE(_C, m) {
  using namespace fastrnn;
  cpu::kernels();  // a wrong FASTRNN_ISA must show at import
  m.doc() = "Build facts and plans of fastrnn's kernels.";
  m.attr("isa") = cpu::kernels().isa;
  m.attr("compiler") = __VERSION__;
  m.attr("cells") = describe_cells();
  cpu::interrupt_requested = &python_signal_arrived;
  m.def("take_interruption", &take_interruption);
  m.def("force_stretch_rows", [](int64_t rows) { ops::forced_stretch_rows = rows; });
  m.def("force_usable_cores", [](int cores) { cpu::forced_usable_cores = cores; });
  m.def("force_input_steps", [](int64_t steps) { cpu::forced_input_steps = steps; });
  m.def("reserve_width", &reserve_width, py::arg("cell"), py::arg("half") = false);
  m.def(
      "plan",
      [](const std::string& cell, const std::string& weights, int64_t layers, int64_t directions, int64_t steps,
         int64_t batch, int64_t rows, int64_t input_size, int64_t hidden_size, int64_t recurrent_size, bool projected,
         bool backward, bool frozen) {
        const auto choose = weights == "float64"    ? plan<double>
                            : weights == "bfloat16" ? plan<float, cpu::Bf16>
                                                    : plan<float>;
        return choose(cell_named(cell), layers, directions, steps, batch, rows, input_size, hidden_size, recurrent_size,
                      projected, backward, frozen);
      },
      py::kw_only(), py::arg("cell"), py::arg("weights"), py::arg("layers"), py::arg("directions"), py::arg("steps"),
      py::arg("batch"), py::arg("rows"), py::arg("input_size"), py::arg("hidden_size"), py::arg("recurrent_size"),
      py::arg("projected"), py::arg("backward"), py::arg("frozen"));
#ifdef FASTRNN_WITH_CUDA
  m.attr("cuda_built") = true;
  m.attr("cuda_architectures") = FASTRNN_CUDA_ARCHITECTURES;
  bind_cuda(m);
#else
  m.attr("cuda_built") = false;
  m.attr("cuda_architectures") = "";
#endif
}
