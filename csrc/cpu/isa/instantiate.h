// Instantiates every kernel for the instruction set that the including file is compiled for.
#pragma once

#include "../../cells/list.h"
#include "../gemm/panel_gemm.h"
#include "../gemm/sum_rows.h"
#include "../kernels.h"
#include "../loop/backward.h"
#include "../loop/forward.h"
#include "../random.h"
#include "vector_math.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, class W = T, bool kExtended = false>
constexpr ForwardKernels<T, W> instantiate_forward() {
  constexpr int vectors = Cell::kMultipliesH ? panel_vectors(kRecurrentGates<Cell>) : 1;
  constexpr int rows = Cell::kMultipliesH ? tile_rows<Isa>(vectors) : 1;
  using Loop = ForwardLoop<Isa, Cell, T, W, kExtended>;
  ForwardKernels<T, W> kernels{&Loop::run, &Loop::scratch_size, nullptr, nullptr, {rows, vectors}};
  if constexpr (!kExtended) {
    kernels.freeze = &Loop::freeze;
    kernels.frozen_size = &Loop::frozen_size;
  }
  return kernels;
}

template <class Isa, class Cell, class T, bool kExtended>
constexpr CellKernels<T> instantiate_loops() {
  using Loop = BackwardLoop<Isa, Cell, T, kExtended>;
  return {instantiate_forward<Isa, Cell, T, T, kExtended>(),
          &Loop::run,
          &Loop::scratch_size,
          {Cell::kMultipliesH ? tile_rows<Isa>(kMaxPanelVectors) : 1, Cell::kMultipliesH ? kMaxPanelVectors : 1},
          {}};
}

template <class Isa, class Cell, class T>
constexpr CellKernels<T> instantiate_cell() {
  CellKernels<T> kernels = instantiate_loops<Isa, Cell, T, false>();
  kernels.extended = {&ForwardLoop<Isa, Cell, T, T, true>::run, &BackwardLoop<Isa, Cell, T, true>::run};
  return kernels;
}

// A cell that always runs with extras.
template <class Isa, class Cell, class T>
constexpr CellKernels<T> instantiate_extended_cell() {
  CellKernels<T> kernels = instantiate_loops<Isa, Cell, T, true>();
  kernels.extended = {kernels.forward, kernels.backward};
  return kernels;
}

template <class Isa, class T, class... Plain, class... Extended>
constexpr DtypeKernels<T> instantiate_dtype(CellList<Plain...>, CellList<Extended...>) {
  return {.multiply_rows = &multiply_rows<Isa, T, T>,
          .multiply_panels = &multiply_panels<Isa, T, T>,
          .panel_gemm_scratch = &PanelGemmShare<Isa, T, T>::scratch_size,
          .sum_rows = &sum_rows<Isa, T>,
          .cells = {instantiate_cell<Isa, Plain, T>()..., instantiate_extended_cell<Isa, Extended, T>()...},
          .fill_mask = &fill_mask<Isa, T>};
}

template <class Isa, class T, class W, class... Plain>
constexpr DtypeKernels<T, W> instantiate_stored_as(CellList<Plain...>) {
  DtypeKernels<T, W> kernels{.multiply_rows = nullptr,
                             .multiply_panels = nullptr,
                             .panel_gemm_scratch = nullptr,
                             .sum_rows = nullptr,
                             .cells = {instantiate_forward<Isa, Plain, T, W>()...},
                             .fill_mask = nullptr};
  if constexpr (!kHasScales<W>) {
    kernels.multiply_rows = &multiply_rows<Isa, T, W>;
    kernels.multiply_panels = &multiply_panels<Isa, T, W>;
    kernels.panel_gemm_scratch = &PanelGemmShare<Isa, T, W>::scratch_size;
  }
  return kernels;
}

template <class Isa>
constexpr Kernels instantiate(const DtypeKernels<float, Int8>& int8_weights) {
  return {Isa::kName,
          Isa::kBytes,
          instantiate_dtype<Isa, float>(PlainCells{}, ExtendedCells{}),
          instantiate_dtype<Isa, double>(PlainCells{}, ExtendedCells{}),
          instantiate_stored_as<Isa, float, Bf16>(PlainCells{}),
          &int8_weights};
}

}  // namespace fastrnn::cpu
