// The GEMMs of csrc/cuda/common/gemm.cpp on the host, plain and slow: each sum in one fixed order, float never in TF32.
#include <algorithm>
#include <stdexcept>
#include <vector>

#include "cuda/common/gemm.h"

namespace fastrnn::cuda {

namespace {

// Of a matrix whose strides are as gemm.h promises, row after row.
template <class T>
std::vector<Accumulator<T>> widened(const Matrix<const T>& matrix) {
  if (matrix.row_stride != 1 && matrix.column_stride != 1) throw std::invalid_argument("gemm: no stride of 1");
  std::vector<Accumulator<T>> values;
  values.reserve(static_cast<size_t>(matrix.rows * matrix.columns));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t column = 0; column < matrix.columns; ++column) {
      values.push_back(
          static_cast<Accumulator<T>>(matrix.data[row * matrix.row_stride + column * matrix.column_stride]));
    }
  }
  return values;
}

}  // namespace

template <class In, class Out>
void gemm(const Matrix<Out>& out, const Matrix<const In>& a, const Matrix<const In>& b, bool accumulate, const Queue&) {
  using A = Accumulator<In>;
  if (out.column_stride != 1) throw std::invalid_argument("gemm: the columns of out do not lie side by side");
  if (out.rows != a.rows || out.columns != b.columns || a.columns != b.rows) {
    throw std::invalid_argument("gemm: the sizes do not match");
  }
  const std::vector<A> left = widened(a), right = widened(b);
  std::vector<A> sums(static_cast<size_t>(out.columns));
  for (int64_t row = 0; row < out.rows; ++row) {
    Out* const out_row = out.data + row * out.row_stride;
    std::fill(sums.begin(), sums.end(), A{});
    for (int64_t k = 0; k < a.columns; ++k) {
      const A factor = left[row * a.columns + k];
      for (int64_t column = 0; column < out.columns; ++column) {
        sums[column] += factor * right[k * out.columns + column];
      }
    }
    for (int64_t column = 0; column < out.columns; ++column) {
      if (accumulate) sums[column] += static_cast<A>(out_row[column]);
      out_row[column] = static_cast<Out>(sums[column]);
    }
  }
}

template void gemm(const Matrix<double>&, const Matrix<const double>&, const Matrix<const double>&, bool, const Queue&);
template void gemm(const Matrix<float>&, const Matrix<const float>&, const Matrix<const float>&, bool, const Queue&);
template void gemm(const Matrix<__half>&, const Matrix<const __half>&, const Matrix<const __half>&, bool, const Queue&);
template void gemm(const Matrix<float>&, const Matrix<const __half>&, const Matrix<const __half>&, bool, const Queue&);
template void gemm(const Matrix<__nv_bfloat16>&, const Matrix<const __nv_bfloat16>&, const Matrix<const __nv_bfloat16>&,
                   bool, const Queue&);
template void gemm(const Matrix<float>&, const Matrix<const __nv_bfloat16>&, const Matrix<const __nv_bfloat16>&, bool,
                   const Queue&);

}  // namespace fastrnn::cuda
