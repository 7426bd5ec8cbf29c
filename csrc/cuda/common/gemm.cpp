#include "gemm.h"

#include <library_types.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "error.h"

// Declared in cublas_api.h, which a torch's CUDA toolkit need not include. Weak: resolved to the cuBLAS that a torch
// with CUDA loads, null elsewhere. Enumerators are passed as int.
extern "C" {
__attribute__((weak)) int cublasGemmEx_64(void* handle, int transpose_a, int transpose_b, int64_t m, int64_t n,
                                          int64_t k, const void* alpha, const void* a, cudaDataType_t a_type,
                                          int64_t a_stride, const void* b, cudaDataType_t b_type, int64_t b_stride,
                                          const void* beta, void* c, cudaDataType_t c_type, int64_t c_stride,
                                          int compute_type, int algorithm);
__attribute__((weak)) const char* cublasGetStatusString(int status);
}

namespace fastrnn::cuda {

namespace {

constexpr int kSuccess = 0;                 // CUBLAS_STATUS_SUCCESS
constexpr int kPlain = 0, kTransposed = 1;  // CUBLAS_OP_N, CUBLAS_OP_T
constexpr int kDefaultAlgorithm = -1;       // CUBLAS_GEMM_DEFAULT

// cublasComputeType_t
constexpr int kCompute32F = 68;          // CUBLAS_COMPUTE_32F
constexpr int kCompute32FPedantic = 69;  // CUBLAS_COMPUTE_32F_PEDANTIC
constexpr int kCompute64F = 70;          // CUBLAS_COMPUTE_64F
constexpr int kCompute32FTf32 = 77;      // CUBLAS_COMPUTE_32F_FAST_TF32

template <class T>
constexpr cudaDataType_t kDataType = CUDA_R_32F;
template <>
constexpr cudaDataType_t kDataType<double> = CUDA_R_64F;
template <>
constexpr cudaDataType_t kDataType<__half> = CUDA_R_16F;
template <>
constexpr cudaDataType_t kDataType<__nv_bfloat16> = CUDA_R_16BF;

// For float never plain CUBLAS_COMPUTE_32F, which defers to the handle's math mode: that follows torch's switch for
// matmul, not the one for recurrent layers.
template <class In>
int compute_type(const Queue& queue) {
  if constexpr (std::is_same_v<In, double>) return kCompute64F;
  if constexpr (std::is_same_v<In, float>) return queue.allow_tf32 ? kCompute32FTf32 : kCompute32FPedantic;
  return kCompute32F;
}

// A matrix as column-major cuBLAS sees it: the transposed matrix, so that row-major data needs no transposing.
struct CublasOperand {
  int transposed;
  int64_t stride;

  template <class T>
  explicit CublasOperand(const Matrix<T>& matrix)
      : transposed(matrix.column_stride == 1 ? kPlain : kTransposed),
        // With a single row or column the stride is arbitrary, but cuBLAS still requires it to cover the other
        // dimension.
        stride(matrix.column_stride == 1 ? std::max(matrix.row_stride, matrix.columns)
                                         : std::max(matrix.column_stride, matrix.rows)) {}
};

template <class T>
void zero(const Matrix<T>& out, const Queue& queue) {
  const size_t pitch = static_cast<size_t>(std::max(out.row_stride, out.columns)) * sizeof(T);
  const size_t width = static_cast<size_t>(out.columns) * sizeof(T);
  check(cudaMemset2DAsync(out.data, pitch, 0, width, static_cast<size_t>(out.rows), queue.stream));
}

}  // namespace

template <class In, class Out>
void gemm(const Matrix<Out>& out, const Matrix<const In>& a, const Matrix<const In>& b, bool accumulate,
          const Queue& queue) {
  if (out.rows == 0 || out.columns == 0) return;
  if (a.columns == 0) {
    if (!accumulate) zero(out, queue);
    return;
  }
  if (!cublasGemmEx_64) throw std::runtime_error("fastrnn: cuBLAS was not found: this torch has no CUDA");
  const CublasOperand operand_a(a), operand_b(b), operand_out(out);
  const Accumulator<In> one = 1, beta = accumulate ? 1 : 0;
  // out^T = b^T a^T
  const int status =
      cublasGemmEx_64(queue.blas, operand_b.transposed, operand_a.transposed, out.columns, out.rows, a.columns, &one,
                      b.data, kDataType<In>, operand_b.stride, a.data, kDataType<In>, operand_a.stride, &beta, out.data,
                      kDataType<Out>, operand_out.stride, compute_type<In>(queue), kDefaultAlgorithm);
  if (status != kSuccess) throw std::runtime_error(std::string("fastrnn: cuBLAS: ") + cublasGetStatusString(status));
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
