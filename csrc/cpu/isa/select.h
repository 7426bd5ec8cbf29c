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

// A cell's kernels for this processor. Throws if they are those of a cell that a user wrote and are not loaded.
template <class T, class W = T>
const typename DtypeKernels<T, W>::Cell& kernels_of(CellKind cell) {
  const OwnCell* own = own_cell(cell);
  if (!own) return cell_kernels<T, W>(kernels(), cell);
  if constexpr (std::is_same_v<T, W>) {
    const auto& loaded = std::is_same_v<T, float> ? own->cpu_f32 : own->cpu_f64;
    const void* table = loaded.load(std::memory_order_acquire);
    if (table) return *static_cast<const CellKernels<T>*>(table);
  }
  throw std::runtime_error(std::string("fastrnn: no kernels are loaded for ") + own->facts.name.text);
}

// Whether AMD made this processor.
bool is_amd();

}  // namespace fastrnn::cpu
