// fastrnn._C: what Python asks about the build and the cells. Tensors go through torch.ops.fastrnn.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/own_cell.h"
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

// What Python knows of every cell of the list, by name and in its order.
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

// Adds a cell that a user wrote to the registry; see CellFacts.
void add_cell(const std::string& name, int gates, int saved_values, int cell_states, int per_unit_weights,
              bool multiplies_h, bool reads_input, const std::vector<int>& recurrent_slots) {
  if (find_cell(name)) throw std::invalid_argument("there is a cell '" + name + "'");
  if (name.size() >= sizeof(CellName::text) || gates > kMaxGates || cell_states > kMaxCellStates) {
    throw std::invalid_argument("cell '" + name + "' has too long a name, or too many gates or states");
  }
  CellFacts facts{.name = name.c_str(),
                  .inner_name = name.c_str(),
                  .gates = gates,
                  .saved_values = saved_values,
                  .second_pass_gates = 0,
                  .per_unit_weights = per_unit_weights,
                  .inner_per_unit_weights = per_unit_weights,
                  .plain = true,
                  .cell_states = cell_states,
                  .reads_saved = true,
                  .projects = false,
                  .activates_output = false,
                  .multiplies_h = multiplies_h,
                  .reads_input = reads_input,
                  .recurrent_slot = {},
                  .bias_slot = 0,
                  .recurrent_bias_slot = {}};
  for (size_t gate = 0; gate < recurrent_slots.size() && gate < kMaxGates; ++gate) {
    facts.recurrent_slot[gate] = facts.recurrent_bias_slot[gate] = recurrent_slots[gate];
  }
  own_cells.add(facts);
}

// Takes a cell's kernels for float or double from the library that they were compiled to.
void load_cell(const std::string& name, const std::string& path, bool is_double) {
  static constexpr cpu::TeamFunctions team{
      [](cpu::Worker& worker) { worker.barrier(); }, [](cpu::Worker& worker, int64_t step) { worker.poll(step); },
      [](const cpu::Worker& worker, int64_t step) { return worker.stopped_at(step); }};
  const std::optional<CellKind> cell = find_cell(name);
  OwnCell* own = cell ? own_cell(*cell) : nullptr;
  if (!own) throw std::invalid_argument("no user's cell is called '" + name + "'");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // for as long as the process lives
  void* function = library ? dlsym(library, "fastrnn_own_cell") : nullptr;
  if (!function) throw std::runtime_error(dlerror());
  const void* kernels = reinterpret_cast<cpu::OwnCellFunction>(function)(&team);
  (is_double ? own->cpu_f64 : own->cpu_f32).store(kernels, std::memory_order_release);
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

// A function of Python: of a cell's name, and whether its kernels are to be those of double; see
// cpu::load_own_kernels. It lives as long as the process.
py::object* own_kernels_loader = nullptr;

std::string ask_python_for_kernels(const char* cell, bool is_double) {
  const py::gil_scoped_acquire lock;
  return (*own_kernels_loader)(cell, is_double).cast<std::string>();
}

void set_loader(const py::object& loader) {
  own_kernels_loader = new py::object(loader);
  cpu::load_own_kernels = &ask_python_for_kernels;
}

}  // namespace

}  // namespace fastrnn

PYBIND11_MODULE(_C, m) {
  using namespace fastrnn;
  cpu::kernels();  // a wrong FASTRNN_ISA must show at import
  m.doc() = "Build facts and cells of fastrnn's kernels.";
  m.attr("isa") = cpu::kernels().isa;
  m.attr("compiler") = __VERSION__;
  m.attr("headers") = FASTRNN_HEADERS;  // setup.py gives it
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
  m.def("add_cell", &add_cell, py::kw_only(), py::arg("name"), py::arg("gates"), py::arg("saved_values"),
        py::arg("cell_states"), py::arg("per_unit_weights"), py::arg("multiplies_h"), py::arg("reads_input"),
        py::arg("recurrent_slots"));
  m.def("set_loader", &set_loader);
  m.def("load_cell", &load_cell, py::kw_only(), py::arg("name"), py::arg("path"), py::arg("is_double"));
#ifdef FASTRNN_WITH_CUDA
  m.attr("cuda_built") = true;
  m.attr("cuda_architectures") = FASTRNN_CUDA_ARCHITECTURES;
#else
  m.attr("cuda_built") = false;
  m.attr("cuda_architectures") = "";
#endif
}
