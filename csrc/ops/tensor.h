// The few tensor operations that the ops need, on torch's stable ABI: one build serves torch 2.11 and later.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstring>
#include <initializer_list>
#include <optional>
#include <vector>

namespace fastrnn::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
constexpr ScalarType scalar_type_of = std::is_same_v<T, float> ? ScalarType::Float : ScalarType::Double;

inline int32_t dtype_code(ScalarType dtype) {
  return dtype == ScalarType::Float ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
}

// Uninitialised, contiguous, on the CPU, from torch's allocator.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * (sizes[d] > 0 ? sizes[d] : 1);
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                         strides.data(), dtype_code(dtype),
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
void copy(T* to, const T* from, int64_t count) {
  if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
void zero(T* to, int64_t count) {
  if (count > 0) std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
}

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

// out = a b, or out += a b; out's columns lie side by side.
template <class In, class T>
void multiply(const Matrix<T>& out, const Matrix<In>& a, const Matrix<In>& b, bool accumulate = false) {
  if (out.rows * out.columns * a.columns <= kTinyProduct) {
    multiply_tiny(out, a, b, accumulate);
    return;
  }
  const Tensor c = out.tensor();
  if (accumulate) {
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(c.get(), c.get(), a.tensor().get(), b.tensor().get(), 1.0, 1.0));
  } else {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), a.tensor().get(), b.tensor().get()));
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
