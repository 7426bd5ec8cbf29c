// The table of kernels that each kernels_<isa>.cpp fills: one entry per cell and dtype.
#pragma once

#include "../params.h"

namespace fastrnn::cpu {

struct Plan;

template <class T>
struct CellKernels {
  // A pass is one call or several, for one stretch after the other (in backward, the last one first) with the same
  // scratch. params.channels, in backward params.grad_channels, begins with the stretch's first row; after: the
  // gradients of the channels of step stretch.end, if there is one. False if the user interrupted the call.
  bool (*forward)(const ForwardParams<T>& params, const Plan& plan, const Stretch& stretch);
  bool (*backward)(const BackwardParams<T>& params, const Plan& plan, const Stretch& stretch, const T* after);
  int64_t (*forward_scratch)(const Dims& dims, const Plan& plan);
  int64_t (*backward_scratch)(const Dims& dims, const Plan& plan);
  int forward_tile[2], backward_tile[2];  // rows and vectors of the register tile
};

// Of one dtype.
template <class T>
struct DtypeKernels {
  // out (rows, columns) = a (rows, depth) times the transpose of weights (columns, depth). For few rows.
  void (*multiply_rows)(T* out, int64_t out_stride, const T* a, int64_t a_stride, int64_t rows, const T* weights,
                        int64_t columns, int64_t depth);
  CellKernels<T> cells[kCellKinds];  // in the order of CellKind
};

struct Kernels {
  const char* isa;
  int vector_bytes;
  DtypeKernels<float> f32;
  DtypeKernels<double> f64;
};

extern const Kernels kBaselineKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

template <class T>
const DtypeKernels<T>& dtype_kernels(const Kernels& kernels);
template <>
inline const DtypeKernels<float>& dtype_kernels(const Kernels& kernels) {
  return kernels.f32;
}
template <>
inline const DtypeKernels<double>& dtype_kernels(const Kernels& kernels) {
  return kernels.f64;
}

template <class T>
const CellKernels<T>& cell_kernels(const Kernels& kernels, CellKind cell) {
  return dtype_kernels<T>(kernels).cells[static_cast<int>(cell)];
}

}  // namespace fastrnn::cpu
