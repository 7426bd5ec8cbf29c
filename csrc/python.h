// What the files of fastrnn._C share.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "params.h"

namespace fastrnn {

namespace py = pybind11;

// Throws std::invalid_argument (ValueError) for a name that is none.
CellKind cell_named(const std::string& name);

#ifdef FASTRNN_WITH_CUDA
void bind_cuda(py::module_& m);
#endif

}  // namespace fastrnn
