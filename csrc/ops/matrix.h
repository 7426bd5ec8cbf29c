// Matrices of borrowed memory and the products of them that a layer shares between all its steps, by torch's GEMM.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../cpu/team.h"
#include "tensor.h"

namespace fastrnn::ops {

// fastrnn/_native.py turns this into the exception that the signal's handler raised.
inline void check_finished(bool finished) { STD_TORCH_CHECK(finished, "fastrnn: interrupted by a signal"); }

// A matrix of borrowed memory, as an operand for torch's GEMM.
template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns;
  int64_t row_stride, column_stride = 1;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  Matrix row_range(int64_t begin, int64_t end) const {
    return {data + begin * row_stride, end - begin, columns, row_stride, column_stride};
  }
  Matrix column_range(int64_t begin, int64_t end) const {
    return {data + begin * column_stride, rows, end - begin, row_stride, column_stride};
  }

  // Rows first, first + step, first + 2 * step, ...
  Matrix every(int64_t first, int64_t step) const {
    return {data + first * row_stride, rows / step, columns, row_stride * step, column_stride};
  }

  Tensor tensor() const {
    const int64_t sizes[] = {rows, columns}, strides[] = {row_stride, column_stride};
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
        const_cast<std::remove_const_t<T>*>(data), 2, sizes, strides, 0,
        dtype_code(scalar_type_of<std::remove_const_t<T>>), aoti_torch_device_type_cpu(), 0, &handle));
    return Tensor(handle);
  }
};

// Multiply-adds up to which a plain loop beats a call of torch's GEMM with the three tensors that it takes: at 1,024 it
// saves 1.3 us of 8.5, at 4,096 0.4 (benchmarks/overhead.py, the forward of a step of one row).
constexpr int64_t kTinyProduct = 2048;

template <class In, class T>
void multiply_tiny(const Matrix<T>& out, const Matrix<In>& a, const Matrix<In>& b, bool accumulate) {
  for (int64_t i = 0; i < out.rows; ++i) {
    T* row = out.data + i * out.row_stride;
    if (!accumulate) zero(row, out.columns);
    for (int64_t k = 0; k < a.columns; ++k) {
      const T factor = a.data[i * a.row_stride + k * a.column_stride];
      const In* from = b.data + k * b.row_stride;
      for (int64_t j = 0; j < out.columns; ++j) row[j] += factor * from[j * b.column_stride];
    }
  }
}

template <class In, class T>
void multiply_by_torch(const Matrix<T>& out, const Matrix<In>& a, const Matrix<In>& b, bool accumulate) {
  const Tensor c = out.tensor();
  if (accumulate) {
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(c.get(), c.get(), a.tensor().get(), b.tensor().get(), 1.0, 1.0));
  } else {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), a.tensor().get(), b.tensor().get()));
  }
}

// Multiply-adds of a product that is interrupted by Ctrl-C before or after, never within: a fifth of a second on a
// core.
constexpr int64_t kUninterrupted = int64_t{16} << 30;

// out = a b, or out += a b; out's columns lie side by side. Throws if the user interrupts it.
template <class In, class T>
void multiply(const Matrix<T>& out, const Matrix<In>& a, const Matrix<In>& b, bool accumulate = false) {
  const int64_t size = out.rows * out.columns * a.columns;
  if (size <= kTinyProduct) {
    multiply_tiny(out, a, b, accumulate);
    return;
  }
  if (size <= kUninterrupted) {
    multiply_by_torch(out, a, b, accumulate);
    return;
  }
  check_finished(!cpu::interrupt_requested || !cpu::interrupt_requested());
  // Halve the longer of the two: the rows of out, or the sums.
  if (out.rows >= a.columns) {
    const int64_t half = out.rows / 2;
    multiply(out.row_range(0, half), a.row_range(0, half), b, accumulate);
    multiply(out.row_range(half, out.rows), a.row_range(half, out.rows), b, accumulate);
  } else {
    const int64_t half = a.columns / 2;
    multiply(out, a.column_range(0, half), b.row_range(0, half), accumulate);
    multiply(out, a.column_range(half, a.columns), b.row_range(half, a.columns), true);
  }
}

// The sums of the columns, one after the other in out. torch sums long columns in a way that loses less to rounding.
template <class T>
void sum_rows(T* out, const Matrix<const T>& matrix) {
  if (matrix.rows <= 8) {
    zero(out, matrix.columns);
    for (int64_t i = 0; i < matrix.rows; ++i) {
      for (int64_t j = 0; j < matrix.columns; ++j) out[j] += matrix.data[i * matrix.row_stride + j];
    }
    return;
  }
  const int64_t first[] = {0};
  const Tensor sums = torch::stable::sum(matrix.tensor(), torch::headeronly::IntHeaderOnlyArrayRef(first, 1));
  copy(out, data<const T>(sums), matrix.columns);
}

}  // namespace fastrnn::ops
