// The products before and after a time loop on the CPU, and which code computes each.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../cpu/isa/select.h"
#include "../cpu/team/cores.h"
#include "../cpu/team/interrupt.h"
#include "../cpu/tuning.h"
#include "cpu_memory.h"
#include "one_thread.h"

namespace fastrnn::ops {

// fastrnn/_native.py turns this into the exception that the signal's handler raised.
inline void check_finished(bool finished) { STD_TORCH_CHECK(finished, "fastrnn: interrupted by a signal"); }

// Whether a GEMM goes panel by panel (cpu/gemm/panel_gemm.h): with large weights that beats torch's GEMM, which packs
// all of them before it multiplies.
inline bool is_multiplied_by_panels(int64_t rows, int64_t weight_bytes) {
  const bool has_avx2 = cpu::kernels().vector_bytes == 32;
  return weight_bytes >= cpu::kPanelGemmWeightBytes && (has_avx2 || rows <= cpu::kPanelGemmRows);
}

class CpuGemms : public CpuMemory {
 public:
  using CpuMemory::CpuMemory;

  // out = a b, or out += a b; out's columns lie side by side. Throws if the user interrupts it.
  template <class T>
  void multiply(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                bool accumulate = false) const {
    const int64_t size = out.rows * out.columns * a.columns;
    const bool by_weights = !accumulate && a.column_stride == 1 && b.row_stride == 1 && b.column_stride == b.rows;
    const int64_t bytes = b.rows * b.columns * static_cast<int64_t>(sizeof(T));
    if (by_weights && (out.rows <= cpu::kFewGemmRows || is_multiplied_by_panels(out.rows, bytes))) {
      multiply_by_weights(out, a, b);
      return;
    }
    if (size <= cpu::kTinyGemm) {
      multiply_tiny(out, a, b, accumulate);
      return;
    }
    if (size <= cpu::kUninterrupted) {
      if (out.columns < cpu::kNarrowColumns && size > cpu::kNarrowGemm) {
        multiply_narrow(out, a, b, accumulate);
      } else {
        multiply_by_torch(out, a, b, accumulate);
      }
      return;
    }
    check_not_interrupted();
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

  // Weights stored in bfloat16, which torch's products do not take beside float32.
  void multiply(const Matrix<float>& out, const Matrix<const float>& a, const Matrix<const cpu::Bf16>& b) const {
    multiply_by_weights(out, a, b);
  }

  // The sums of the columns, one after the other in out. torch sums long columns in a way that loses less to rounding.
  template <class T>
  void sum_rows(T* out, const Matrix<const T>& matrix) const {
    if (matrix.rows <= cpu::kFewRowsToSum) {
      zero(out, matrix.columns);
      for (int64_t i = 0; i < matrix.rows; ++i) {
        for (int64_t j = 0; j < matrix.columns; ++j) out[j] += matrix.data[i * matrix.row_stride + j];
      }
      return;
    }
    const int64_t first[] = {0};
    const Tensor sums =
        torch::stable::sum(as_tensor(matrix, place_), torch::headeronly::IntHeaderOnlyArrayRef(first, 1));
    copy(out, data<const T>(sums), matrix.columns);
  }

 private:
  static void check_not_interrupted() { check_finished(!cpu::interrupt_requested || !cpu::interrupt_requested()); }

  // out = a b, with b the transpose of weights whose rows lie one after the other.
  template <class T, class W>
  void multiply_by_weights(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const W>& b) const {
    const auto& kernels = cpu::dtype_kernels<T, W>(cpu::kernels());
    if (out.rows <= cpu::kFewGemmRows) {
      kernels.multiply_rows(out.data, out.row_stride, a.data, a.row_stride, out.rows, b.data, out.columns, b.rows);
      return;
    }
    const int64_t macs = out.rows * out.columns * b.rows;
    if (macs > cpu::kUninterrupted) {
      check_not_interrupted();
      const int64_t half = out.rows / 2;
      multiply_by_weights(out.row_range(0, half), a.row_range(0, half), b);
      multiply_by_weights(out.row_range(half, out.rows), a.row_range(half, out.rows), b);
      return;
    }
    const int64_t panel = cpu::kMaxPanelVectors * cpu::kernels().vector_bytes / static_cast<int64_t>(sizeof(T));
    const int threads = cpu::smaller(static_cast<int>(torch::stable::get_num_threads()), cpu::usable_cores());
    const cpu::GemmPlan plan = cpu::choose_gemm_plan(threads, out.rows, macs, cpu::ceil_div(out.columns, panel));
    const Tensor scratch = empty({plan.threads * panel * b.rows}, scalar_type_of<T>);
    kernels.multiply_panels(
        {out.data, out.row_stride, a.data, a.row_stride, out.rows, b.data, out.columns, b.rows, data<T>(scratch)},
        plan);
  }

  template <class T>
  void multiply_tiny(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b, bool accumulate) const {
    for (int64_t i = 0; i < out.rows; ++i) {
      T* row = out.data + i * out.row_stride;
      if (!accumulate) zero(row, out.columns);
      for (int64_t k = 0; k < a.columns; ++k) {
        const T factor = a.data[i * a.row_stride + k * a.column_stride];
        const T* from = b.data + k * b.row_stride;
        for (int64_t j = 0; j < out.columns; ++j) row[j] += factor * from[j * b.column_stride];
      }
    }
  }

  // MKL adds up a result of fewer than kNarrowColumns columns term by term, which is slow and loses a digit in long
  // sums. So such a result is computed transposed if it is wide then, and if not, in short sums; and large operands
  // piece by piece.
  template <class T>
  void multiply_narrow(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                       bool accumulate) const {
    const bool wide_transposed = out.columns > 1 && out.rows >= cpu::kNarrowColumns;
    const bool large =
        out.rows * a.columns > cpu::kNarrowOperand * static_cast<int64_t>(torch::stable::get_num_threads());
    if (large && out.rows > a.columns) {
      const int64_t half = out.rows / 2;
      multiply_narrow(out.row_range(0, half), a.row_range(0, half), b, accumulate);
      multiply_narrow(out.row_range(half, out.rows), a.row_range(half, out.rows), b, accumulate);
      return;
    }
    if (large || (!wide_transposed && a.columns > cpu::kNarrowSum)) {
      const int64_t half = a.columns / 2;
      multiply_narrow(out, a.column_range(0, half), b.row_range(0, half), accumulate);
      multiply_narrow(out, a.column_range(half, a.columns), b.row_range(half, a.columns), true);
      return;
    }
    // Not added to `out` by torch: where MKL goes on adding term by term, every term would be rounded to the whole sum.
    const Scratch<T> memory(*this, out.rows * out.columns);
    const Matrix<T> part{memory.data(), out.rows, out.columns, wide_transposed ? 1 : out.columns,
                         wide_transposed ? out.rows : 1};
    if (wide_transposed) {
      multiply_by_torch(part.transposed(), b.transposed(), a.transposed(), false);
    } else {
      multiply_by_torch(part, a, b, false);
    }
    for (int64_t i = 0; i < out.rows; ++i) {
      T* to = out.data + i * out.row_stride;
      const T* from = part.data + i * part.row_stride;
      for (int64_t j = 0; j < out.columns; ++j) to[j] = from[j * part.column_stride] + (accumulate ? to[j] : T(0));
    }
  }

  template <class T>
  void multiply_by_torch(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                         bool accumulate) const {
    const OnOneThread small(out.rows * out.columns * a.columns <= cpu::kSingleThreadGemm);
    const Tensor c = as_tensor(out, place_);
    if (accumulate) {
      TORCH_ERROR_CODE_CHECK(
          aoti_torch_cpu_addmm_out(c.get(), c.get(), as_tensor(a, place_).get(), as_tensor(b, place_).get(), 1.0, 1.0));
    } else {
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), as_tensor(a, place_).get(), as_tensor(b, place_).get()));
    }
  }
};

}  // namespace fastrnn::ops
