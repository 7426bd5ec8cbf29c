// Which instruction set's kernels run, and on whose processor.
#pragma once

#include <stdexcept>
#include <string>

#include "../../cells/registry.h"
#include "../kernels.h"

namespace fastrnn::cpu {

// The kernels for the best instruction set that this processor supports, or for the lesser one that FASTRNN_ISA names.
// Throws std::runtime_error if FASTRNN_ISA names none that runs here.
const Kernels& kernels();

// Finds or compiles the kernels of a cell that a user wrote, and says why there are none, or nothing: set by Python.
// For exported programs; all other calls come from Python, which has asked before.
inline std::string (*load_own_kernels)(const char* cell, bool is_double) = nullptr;

// A cell's kernels for this processor. Throws if they are those of a cell that a user wrote and there are none.
template <class T, class W = T>
const typename DtypeKernels<T, W>::Cell& kernels_of(CellKind cell) {
  const OwnCell* own = own_cell(cell);
  if (!own) return cell_kernels<T, W>(kernels(), cell);
  const char* name = own->facts.name.text;
  std::string why = "they store their weights in its type";
  if constexpr (std::is_same_v<T, W>) {
    const auto& loaded = std::is_same_v<T, float> ? own->cpu_f32 : own->cpu_f64;
    const void* table = loaded.load(std::memory_order_acquire);
    if (!table && load_own_kernels) {
      why = load_own_kernels(name, std::is_same_v<T, double>);
      table = loaded.load(std::memory_order_acquire);
    }
    if (table) return *static_cast<const CellKernels<T>*>(table);
  }
  throw std::runtime_error(std::string("fastrnn: no kernels for the cell ") + name + ": " + why);
}

// Whether AMD made this processor.
bool is_amd();

}  // namespace fastrnn::cpu
