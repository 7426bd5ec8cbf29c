// The products before and after a time loop on the CPU, and which code computes each.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "../cpu/isa/select.h"
#include "../cpu/team/interrupt.h"
#include "../cpu/tuning.h"
#include "cpu_memory.h"

namespace fastrnn::ops {

// fastrnn/_native.py turns this into the exception that the signal's handler raised.
inline void check_finished(bool finished) { STD_TORCH_CHECK(finished, "fastrnn: interrupted by a signal"); }

class CpuGemms : public CpuMemory {
 public:
  using CpuMemory::CpuMemory;

  // out = a b, or out += a b. One of the strides of each is 1. W is T, or a narrower type that weights are stored in.
  // Throws if the user interrupts it.
  template <class T, class W>
  void multiply(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const W>& b,
                bool accumulate = false) const {
    const cpu::GemmPlan plan = cpu::choose_gemm_plan(shape_of(out, a, b, accumulate));
    if constexpr (std::is_same_v<T, W>) {
      if (plan.code == cpu::GemmCode::kTransposed) {
        multiply(out.transposed(), b.transposed(), a.transposed(), accumulate);
        return;
      }
    }
    if (out.rows * out.columns * a.columns > cpu::kUninterrupted) {
      check_not_interrupted();
      multiply_halves(out, a, b, accumulate);
      return;
    }
    const auto& kernels = cpu::dtype_kernels<T, W>(cpu::kernels());
    switch (plan.code) {
      case cpu::GemmCode::kPlainLoop:
        if constexpr (std::is_same_v<T, W>) multiply_tiny(out, a, b, accumulate);
        break;
      case cpu::GemmCode::kRows:
        kernels.multiply_rows(out.data, out.row_stride, a.data, a.row_stride, out.rows, b.data, out.columns, b.rows);
        break;
      case cpu::GemmCode::kTorch:
        if constexpr (std::is_same_v<T, W>) multiply_by_torch(out, a, b, accumulate);
        break;
      default:
        cpu::PanelGemm<T, W> gemm{out, a, b, accumulate, nullptr};
        const Scratch<T> scratch(*this, plan.threads * kernels.panel_gemm_scratch(gemm));
        gemm.scratch = scratch.data();
        kernels.multiply_panels(gemm, plan);
    }
  }

  // The sums of the columns, one after the other in out.
  template <class T>
  void sum_rows(T* out, const Matrix<const T>& matrix) const {
    if (matrix.rows * matrix.columns <= cpu::kSumAlone) {
      cpu::dtype_kernels<T>(cpu::kernels()).sum_rows(out, matrix);
      return;
    }
    const int64_t first[] = {0};
    const Tensor sums =
        torch::stable::sum(as_tensor(matrix, place_), torch::headeronly::IntHeaderOnlyArrayRef(first, 1));
    copy(out, data<const T>(sums), matrix.columns);
  }

 private:
  static void check_not_interrupted() { check_finished(!cpu::interrupt_requested || !cpu::interrupt_requested()); }

  template <class T, class W>
  static cpu::GemmShape shape_of(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const W>& b,
                                 bool accumulate) {
    const bool by_weights = b.row_stride == 1 && b.column_stride == b.rows;
    return {.threads = static_cast<int>(torch::stable::get_num_threads()),
            .rows = out.rows,
            .columns = out.columns,
            .depth = a.columns,
            .by_columns = a.column_stride != 1,
            .weight_bytes = by_weights ? b.rows * b.columns * static_cast<int64_t>(sizeof(W)) : 0,
            .reads_rows = by_weights && !accumulate && a.column_stride == 1 && out.column_stride == 1,
            .element_size = sizeof(T),
            .narrow_weights = !std::is_same_v<T, W>};
  }

  // Of the longer of the two, the rows of out or the sums.
  template <class T, class W>
  void multiply_halves(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const W>& b,
                       bool accumulate) const {
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

  template <class T>
  void multiply_tiny(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b, bool accumulate) const {
    for (int64_t i = 0; i < out.rows; ++i) {
      T* row = out.data + i * out.row_stride;
      for (int64_t j = 0; !accumulate && j < out.columns; ++j) row[j * out.column_stride] = 0;
      for (int64_t k = 0; k < a.columns; ++k) {
        const T factor = a.data[i * a.row_stride + k * a.column_stride];
        const T* from = b.data + k * b.row_stride;
        for (int64_t j = 0; j < out.columns; ++j) row[j * out.column_stride] += factor * from[j * b.column_stride];
      }
    }
  }

  template <class T>
  void multiply_by_torch(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                         bool accumulate) const {
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
