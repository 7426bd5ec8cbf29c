// The kernel table filled by each kernels_<isa>.cpp: one entry per cell and dtype.
#pragma once

#include <type_traits>

#include "../cells/list.h"
#include "../matrix.h"
#include "../params.h"
#include "isa/bf16.h"
#include "isa/int8.h"
#include "plan.h"

namespace fastrnn::cpu {

struct WorkSlice;

// The time loop of a pass as one worker of a team runs it (loops.h): for one call or several, chunk after chunk (in
// backward, the last one first) with the same scratch.
template <class T, class W = T>
struct ForwardKernels {
  void (*forward)(const ForwardCall<T, T, W>& call, const WorkSlice& slice);
  int64_t (*forward_scratch)(const Dims& dims, const Plan& plan);
  // Writes frozen_size() values: the recurrent weights and biases, packed for ForwardParams::frozen. Of params it reads
  // only these and dims. Both are null for cells that always run with extras.
  void (*freeze)(const ForwardParams<T, T, W>& params, T* frozen);
  int64_t (*frozen_size)(const Dims& dims);
  int forward_tile[2];  // rows and vectors of the register tile
};

// The same time loops for calls with extras (params.h). Cells that always run with extras have only these.
template <class T>
struct ExtendedKernels {
  void (*forward)(const ForwardCall<T>& call, const WorkSlice& slice);
  void (*backward)(const BackwardCall<T>& call, const WorkSlice& slice);
};

template <class T>
struct CellKernels : ForwardKernels<T> {
  void (*backward)(const BackwardCall<T>& call, const WorkSlice& slice);
  int64_t (*backward_scratch)(const Dims& dims, const Plan& plan);
  int backward_tile[2];
  ExtendedKernels<T> extended;
};

// out = a b, or out += a b. One of the strides of a and of b is 1.
template <class T, class W>
struct PanelGemm {
  Matrix<T> out;
  Matrix<const T> a;
  Matrix<const W> b;
  bool accumulate;
  T* scratch;  // panel_gemm_scratch() values per thread
};

// The kernels of one dtype, or forward alone for weights stored as W. Those that have scales are always packed ahead,
// and no other kernel than the time loop reads them.
template <class T, class W = T>
struct DtypeKernels {
  using Cell = std::conditional_t<std::is_same_v<T, W>, CellKernels<T>, ForwardKernels<T, W>>;

  // out (rows, columns) = a (rows, depth) times the transpose of weights (columns, depth). For few rows.
  void (*multiply_rows)(T* out, int64_t out_stride, const T* a, int64_t a_stride, int64_t rows, const W* weights,
                        int64_t columns, int64_t depth);
  // For more rows.
  void (*multiply_panels)(const PanelGemm<T, W>& gemm, const GemmPlan& plan);
  int64_t (*panel_gemm_scratch)(const PanelGemm<T, W>& gemm);
  // out[j] = the sum of the matrix's column j; its columns are contiguous. Null if W is not T.
  void (*sum_rows)(T* out, const Matrix<const T>& matrix);
  // In the order of CellKind; if W is not T, only the plain cells.
  Cell cells[PlainCells::kCount + (std::is_same_v<T, W> ? ExtendedCells::kCount : 0)];
  // out (count): the value with the given probability, else 0. A function of the seed alone.
  void (*fill_mask)(uint64_t seed, T* out, int64_t count, double probability, T value);
};

struct Kernels {
  const char* isa;
  int vector_bytes;
  DtypeKernels<float> f32;
  DtypeKernels<double> f64;
  DtypeKernels<float, Bf16> bf16_weights;
  const DtypeKernels<float, Int8>* int8_weights;
};

extern const Kernels kBaselineKernels;
extern const DtypeKernels<float, Int8> kBaselineInt8Kernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const DtypeKernels<float, Int8> kAvx2Int8Kernels;
extern const DtypeKernels<float, Int8> kAvx512Int8Kernels;
#endif

template <class T, class W = T>
const DtypeKernels<T, W>& dtype_kernels(const Kernels& kernels);
template <>
inline const DtypeKernels<float>& dtype_kernels(const Kernels& kernels) {
  return kernels.f32;
}
template <>
inline const DtypeKernels<double>& dtype_kernels(const Kernels& kernels) {
  return kernels.f64;
}
template <>
inline const DtypeKernels<float, Bf16>& dtype_kernels(const Kernels& kernels) {
  return kernels.bf16_weights;
}
template <>
inline const DtypeKernels<float, Int8>& dtype_kernels(const Kernels& kernels) {
  return *kernels.int8_weights;
}

template <class T, class W = T>
const auto& cell_kernels(const Kernels& kernels, CellKind cell) {
  return dtype_kernels<T, W>(kernels).cells[static_cast<int>(cell)];
}

}  // namespace fastrnn::cpu
