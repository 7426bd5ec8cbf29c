// csrc/cuda/common/gemm.cpp on a cuBLAS of its own: one that multiplies column after column, and is as strict about its
// arguments as the real one. What a GPU then rounds and how fast it is, a GPU must say.
#include <library_types.h>

#include <algorithm>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/common/gemm.h"
#include "kernels/report.h"
#include "memory.h"

namespace fastrnn::test {

namespace {

int last_compute_type, calls;
int status_to_return = 0;

// A matrix as cuBLAS takes it: column after column, perhaps transposed.
template <class T>
struct Columns {
  T* data;
  int64_t stride;
  bool transposed;

  T& at(int64_t row, int64_t column) const {
    return transposed ? data[column + row * stride] : data[row + column * stride];
  }
};

template <class T>
double number(T value) {
  if constexpr (sizeof(T) == 2) return static_cast<float>(value);
  return value;
}

template <class In, class Out>
void multiply_columns(const Columns<const In>& a, const Columns<const In>& b, const Columns<Out>& c, int64_t m,
                      int64_t n, int64_t k, double alpha, double beta) {
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double sum = beta == 0 ? 0 : beta * number(c.at(row, column));
      for (int64_t i = 0; i < k; ++i) sum += alpha * number(a.at(row, i)) * number(b.at(i, column));
      c.at(row, column) = static_cast<Out>(sum);
    }
  }
}

}  // namespace

}  // namespace fastrnn::test

extern "C" {

const char* cublasGetStatusString(int) { return "a status of the test"; }

int cublasGemmEx_64(void* handle, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const void* alpha,
                    const void* a, cudaDataType_t a_type, int64_t a_stride, const void* b, cudaDataType_t b_type,
                    int64_t b_stride, const void* beta, void* c, cudaDataType_t c_type, int64_t c_stride,
                    int compute_type, int algorithm) {
  using namespace fastrnn::test;
  ++calls;
  last_compute_type = compute_type;
  if (status_to_return != 0) return status_to_return;
  const int64_t a_rows = transpose_a ? k : m, b_rows = transpose_b ? n : k;
  const bool right = handle && m > 0 && n > 0 && k > 0 && a_stride >= a_rows && b_stride >= b_rows && c_stride >= m &&
                     a_type == b_type && algorithm == -1;
  if (!right) return 7;  // CUBLAS_STATUS_INVALID_VALUE
  const auto multiply = [&](auto in, auto out, auto scale) {
    using In = decltype(in);
    using Out = decltype(out);
    using Scale = decltype(scale);
    multiply_columns<In, Out>({static_cast<const In*>(a), a_stride, transpose_a == 1},
                              {static_cast<const In*>(b), b_stride, transpose_b == 1},
                              {static_cast<Out*>(c), c_stride, false}, m, n, k, *static_cast<const Scale*>(alpha),
                              *static_cast<const Scale*>(beta));
    return 0;
  };
  if (a_type == CUDA_R_64F && c_type == CUDA_R_64F) return multiply(double{}, double{}, double{});
  if (a_type == CUDA_R_32F && c_type == CUDA_R_32F) return multiply(float{}, float{}, float{});
  if (a_type == CUDA_R_16F && c_type == CUDA_R_16F) return multiply(__half{}, __half{}, float{});
  if (a_type == CUDA_R_16F && c_type == CUDA_R_32F) return multiply(__half{}, float{}, float{});
  if (a_type == CUDA_R_16BF && c_type == CUDA_R_16BF) return multiply(__nv_bfloat16{}, __nv_bfloat16{}, float{});
  if (a_type == CUDA_R_16BF && c_type == CUDA_R_32F) return multiply(__nv_bfloat16{}, float{}, float{});
  return 15;  // CUBLAS_STATUS_NOT_SUPPORTED
}

cudaError_t cudaMemset2DAsync(void* memory, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  if (width > pitch) return cudaErrorInvalidPitchValue;
  for (size_t row = 0; row < height; ++row) {
    std::fill_n(static_cast<unsigned char*>(memory) + row * pitch, width, static_cast<unsigned char>(value));
  }
  return cudaSuccess;
}
}

namespace fastrnn::test {

namespace {

using cuda::gemm;
using cuda::Queue;

int handle;
const Queue kQueue{nullptr, &handle, false};

// A (rows, columns) matrix of small whole numbers, of which every type holds all products and sums here. It lies within
// wider rows, and may be the transposed of what lies in memory.
template <class T>
struct Operand {
  emulation::Buffer<T> memory;
  Matrix<const T> matrix;

  Operand(int64_t rows, int64_t columns, int64_t besides, bool transposed, std::mt19937& random)
      : memory(static_cast<size_t>((transposed ? columns : rows) * ((transposed ? rows : columns) + besides))) {
    for (T& value : memory) value = static_cast<T>(static_cast<float>(static_cast<int>(random() % 5) - 2));
    const int64_t memory_rows = transposed ? columns : rows, memory_columns = transposed ? rows : columns;
    matrix = {memory.data(), memory_rows, memory_columns, memory_columns + besides};
    if (transposed) matrix = matrix.transposed();
  }
};

template <class T>
double element(const Matrix<T>& matrix, int64_t row, int64_t column) {
  return number(matrix.data[row * matrix.row_stride + column * matrix.column_stride]);
}

struct Shape3 {
  int64_t m, n, k;
};

template <class In, class Out>
void check_product(const Shape3& shape, bool transpose_a, bool transpose_b, bool accumulate, std::mt19937& random,
                   Report& report) {
  const auto [m, n, k] = shape;
  const int64_t besides = static_cast<int64_t>(random() % 3);
  const Operand<In> a(m, k, besides, transpose_a, random), b(k, n, besides, transpose_b, random);
  const Operand<Out> before(m, n, besides, false, random);
  emulation::Buffer<Out> after(before.memory.size());
  std::copy(before.memory.begin(), before.memory.end(), after.begin());
  const Matrix<Out> out{after.data(), m, n, n + besides};
  gemm<In, Out>(out, a.matrix, b.matrix, accumulate, kQueue);
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n + besides; ++column) {
      double wanted = number(before.memory[static_cast<size_t>(row * (n + besides) + column)]);
      if (column < n) {
        if (!accumulate) wanted = 0;
        for (int64_t i = 0; i < k; ++i) wanted += element(a.matrix, row, i) * element(b.matrix, i, column);
      }
      if (element(out, row, column) == wanted) continue;
      report.fail("gemm " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " of " +
                  std::to_string(sizeof(In)) + " bytes: " + std::to_string(element(out, row, column)) + ", not " +
                  std::to_string(wanted));
      return;
    }
  }
}

template <class In, class Out>
void check_type(Report& report) {
  std::mt19937 random(0);
  for (int64_t m : {0, 1, 2, 5}) {
    for (int64_t n : {0, 1, 3, 4}) {
      for (int64_t k : {0, 1, 2, 7}) {
        for (int options = 0; options < 8; ++options) {
          check_product<In, Out>({m, n, k}, options & 1, options & 2, options & 4, random, report);
        }
      }
    }
  }
}

// Which of cuBLAS's ways to compute serves a type.
template <class T>
void check_compute_type(bool allow_tf32, int wanted, Report& report) {
  std::mt19937 random(0);
  const Operand<T> a(2, 2, 0, false, random);
  emulation::Buffer<T> out(4);
  gemm<T, T>({out.data(), 2, 2, 2}, a.matrix, a.matrix, false, {nullptr, &handle, allow_tf32});
  if (last_compute_type != wanted) report.fail("gemm computes in " + std::to_string(last_compute_type));
}

void check_errors(Report& report) {
  std::mt19937 random(0);
  const Operand<float> a(2, 2, 0, false, random);
  emulation::Buffer<float> out(4);
  status_to_return = 13;
  std::string message;
  try {
    gemm<float, float>({out.data(), 2, 2, 2}, a.matrix, a.matrix, false, kQueue);
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  status_to_return = 0;
  if (message != "fastrnn: cuBLAS: a status of the test") report.fail("gemm fails with '" + message + "'");
}

// With one row or one column the other stride may be any.
void check_vectors(Report& report) {
  emulation::Buffer<float> values(5), out(25), dot(1);
  for (size_t i = 0; i < 5; ++i) values[i] = static_cast<float>(i + 1);
  const Matrix<const float> column{values.data(), 5, 1, 1, 2}, row{values.data(), 1, 5, 2, 1};
  gemm<float, float>({out.data(), 5, 5, 5}, column, row, false, kQueue);
  gemm<float, float>({dot.data(), 1, 1, 0}, row, column, false, kQueue);
  bool right = dot[0] == 55;
  for (size_t i = 0; i < 25; ++i) right = right && out[i] == values[i / 5] * values[i % 5];
  if (!right) report.fail("gemm of vectors is wrong");
}

// Nothing to multiply, nothing to ask cuBLAS for.
void check_empty(Report& report) {
  calls = 0;
  emulation::Buffer<double> none(0), out(6);
  gemm<double, double>({out.data(), 0, 3, 3}, {none.data(), 0, 2, 2}, {none.data(), 2, 3, 3}, false, kQueue);
  gemm<double, double>({out.data(), 2, 3, 3}, {none.data(), 2, 0, 1}, {none.data(), 0, 3, 3}, false, kQueue);
  if (calls != 0) report.fail("gemm asks cuBLAS for an empty product");
}

}  // namespace

}  // namespace fastrnn::test

int main() {
  using namespace fastrnn::test;
  Report report;
  check_type<double, double>(report);
  check_type<float, float>(report);
  check_type<__half, __half>(report);
  check_type<__half, float>(report);
  check_type<__nv_bfloat16, __nv_bfloat16>(report);
  check_type<__nv_bfloat16, float>(report);
  check_compute_type<double>(true, 70, report);
  check_compute_type<float>(false, 69, report);
  check_compute_type<float>(true, 77, report);
  check_compute_type<__half>(true, 68, report);
  check_compute_type<__nv_bfloat16>(false, 68, report);
  check_vectors(report);
  check_errors(report);
  check_empty(report);
  return report.failures() > 0;
}
