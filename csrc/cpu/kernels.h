// The table of kernels that each kernels_<isa>.cpp fills: one entry per cell and dtype.
#pragma once

#include "../params.h"

namespace fastrnn::cpu {

struct Plan;

template <class T>
struct CellKernels {
  // False if the user interrupted the call.
  bool (*forward)(const ForwardParams<T>& params, const Plan& plan);
  bool (*backward)(const BackwardParams<T>& params, const Plan& plan);
  int64_t (*forward_scratch)(const Dims& dims);
  int64_t (*backward_scratch)(const Dims& dims);
  int forward_tile[2], backward_tile[2];  // rows and vectors of the register tile
};

struct Kernels {
  const char* isa;
  int vector_bytes;
  CellKernels<float> f32[kCellKinds];
  CellKernels<double> f64[kCellKinds];
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

template <class T>
const CellKernels<T>& cell_kernels(const Kernels& kernels, CellKind cell);
template <>
inline const CellKernels<float>& cell_kernels(const Kernels& kernels, CellKind cell) {
  return kernels.f32[static_cast<int>(cell)];
}
template <>
inline const CellKernels<double>& cell_kernels(const Kernels& kernels, CellKind cell) {
  return kernels.f64[static_cast<int>(cell)];
}

}  // namespace fastrnn::cpu
