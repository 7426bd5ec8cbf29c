// Instantiates every kernel for the instruction set that the including file is compiled for.
#pragma once

#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "backward.h"
#include "forward.h"
#include "kernels.h"
#include "product.h"
#include "random.h"
#include "vector_math.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, class W = T>
constexpr ForwardKernels<T, W> instantiate_forward() {
  constexpr int vectors = kMaxPanelVectors / Cell::kGates * Cell::kGates;
  return {&ForwardLoop<Isa, Cell, T, W>::run,
          &ForwardLoop<Isa, Cell, T, W>::scratch_size,
          &ForwardLoop<Isa, Cell, T, W>::freeze,
          &ForwardLoop<Isa, Cell, T, W>::frozen_size,
          {tile_rows<Isa>(vectors), vectors}};
}

template <class Isa, class Cell, class T>
constexpr CellKernels<T> instantiate_cell() {
  return {instantiate_forward<Isa, Cell, T>(),
          &BackwardLoop<Isa, Cell, T>::run,
          &BackwardLoop<Isa, Cell, T>::scratch_size,
          {tile_rows<Isa>(kMaxPanelVectors), kMaxPanelVectors},
          {&ForwardLoop<Isa, Cell, T, T, true>::run, &BackwardLoop<Isa, Cell, T, true>::run}};
}

template <class Isa, class T>
constexpr DtypeKernels<T> instantiate_dtype() {
  return {&multiply_rows<Isa, T, T>,
          {instantiate_cell<Isa, Elman<Tanh>, T>(), instantiate_cell<Isa, Elman<Relu>, T>(),
           instantiate_cell<Isa, Lstm, T>(), instantiate_cell<Isa, Gru, T>()},
          &fill_mask<Isa, T>};
}

template <class Isa, class T, class W>
constexpr DtypeKernels<T, W> instantiate_stored_as() {
  return {&multiply_rows<Isa, T, W>,
          {instantiate_forward<Isa, Elman<Tanh>, T, W>(), instantiate_forward<Isa, Elman<Relu>, T, W>(),
           instantiate_forward<Isa, Lstm, T, W>(), instantiate_forward<Isa, Gru, T, W>()},
          nullptr};
}

template <class Isa>
constexpr Kernels instantiate() {
  return {Isa::kName,
          Isa::kBytes,
          instantiate_dtype<Isa, float>(),
          instantiate_dtype<Isa, double>(),
          instantiate_stored_as<Isa, float, Bf16>(),
          &run_product<Isa>};
}

}  // namespace fastrnn::cpu
