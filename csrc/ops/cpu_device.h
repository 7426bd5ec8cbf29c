// How a layer's passes (layer_pass.h) compute on the CPU.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cstring>

#include "../cpu/dispatch.h"
#include "../cpu/interrupt.h"
#include "../cpu/loops.h"
#include "../cpu/wavefront.h"
#include "one_thread.h"
#include "stretches.h"

namespace fastrnn::ops {

template <>
inline constexpr ScalarType scalar_type_of<cpu::Bf16> = ScalarType::BFloat16;

// fastrnn/_native.py turns this into the exception that the signal's handler raised.
inline void check_finished(bool finished) { STD_TORCH_CHECK(finished, "fastrnn: interrupted by a signal"); }

// Multiply-adds up to which a plain loop beats a call of torch's GEMM with the three tensors that it takes: at 1,024 it
// saves 1.3 us of 8.5, at 4,096 0.4 (benchmarks/overhead.py, the forward of a step of one row).
constexpr int64_t kTinyProduct = 2048;
// Multiply-adds of a product up to which torch's GEMM runs on the calling thread alone. A second thread that has to be
// woken may cost more than it saves, and where other processes want the cores, it costs a time slice.
// benchmarks/products.py, two AVX2 cores, torch 2.13.0, 2026-11-25, the time on two threads over that on one: 1.2-1.9
// up to 131,072, 1.1-1.3 at 262,144, 0.84-1.20 at 524,288, 0.73-1.00 at a million and more.
constexpr int64_t kOneThreadProduct = 512 * 1024;
// Rows of a product up to which reading the weights' rows as they lie beats torch's GEMM. LSTM inference of so many
// steps, the time with torch's product over that with ours, by changing this, two threads: at 3 rows and H = 64 1.14,
// H = 256 0.79, H = 512 0.60; at 2 rows one thread is level from H = 64 to 512.
constexpr int64_t kFewRows = 2;
// Weights of so many bytes and more are multiplied panel by panel (cpu/product.h) where that beats torch's GEMM, which
// packs all of them before it multiplies. Inference, the time with torch's product over that with panels, by changing
// this, on an AMD with AVX2, 2026-11-26. Two threads, 4 to 16 MB: 20 to 100 rows 1.02-1.21, 240 to 500 rows 1.01-1.21,
// but RNN at H = 512, level (0.92-1.08); LSTM and GRU of 6,400 rows 1.07-1.15, though alone torch's GEMM is as fast.
// 1.5 MB and less: level (0.96-1.06). One thread: 40 to 250 rows 0.97-1.14, 6,400 rows 1.06-1.08. Nobody has measured
// many rows with AVX-512.
constexpr int64_t kLargeWeights = 2 << 20, kSomeRows = 512;

inline bool is_multiplied_by_panels(int64_t rows, int64_t weight_bytes) {
  const bool has_avx2 = cpu::kernels().vector_bytes == 32;
  return weight_bytes >= kLargeWeights && (has_avx2 || rows <= kSomeRows);
}

// MKL adds up a result of fewer columns term by term, which is slow and loses a digit in long sums: of 6,000 terms its
// RMS error was 8.6-13.5 ulp of the result's scale, and 2.3 from 16 columns on. So such a result is computed transposed
// if it is wide then, and if not, in sums of so many terms; and large operands piece by piece, of so many values each.
// torch.mm, one thread, an AMD with AVX-512 (Zen 4), 2026-11-28, microseconds as it is and transposed, the copy into
// place included: (24, 6000) x (6000, 4) 166, 31; (128, 1000) x (1000, 4) 149, 25; (1000, 512) x (512, 5) 666, 166;
// (100, 32) x (32, 4) 4, 6; (512, 6000) x (6000, 15) 17275, 14326, and 1620 in pieces.
constexpr int64_t kNarrow = 16, kNarrowProduct = 16 * 1024, kShortSum = 512, kNarrowOperand = 512 * 1024;

// Bytes of a pass's gates above which it is cut into stretches of that many bytes, or of so many rows where those are
// more: by a team, and by one thread.
//
// Every stretch calls the team for each of its products, and where other processes want the cores each call may wait
// for one: then (T, B, I, H) = (28, 128, 28, 128) took 5 times as long in stretches of 512 rows as of 2048. Alone on
// the machine, stretches of 512 rows to all at once were level from 3 to 13 MB (0.99-1.05) as long as freed memory came
// back warm. Where it does not, as between torch.nn's calls in benchmarks/suite.py, LSTM training at (100, 32, 256,
// 256), 13 MB, took 52 ms in stretches of 512 rows and 76 in one. Of 512, 1024, 2048 and all rows, 1024 did best for
// LSTM at (100, 64, 512, 512) and (50, 128, 1024, 1024): 1.01-1.03 times as fast as 512, where 2048 were worth
// 0.96-1.05 and all 0.88-0.97. (The suite's cases, two threads, 2026-11-23, by changing the constants.)
//
// One thread meets nobody. Stretches of 1 MB or 512 rows were 1.02-1.20 times as fast as those of a team, in inference
// and training, at six shapes from (1000, 4, 32, 32) to (100, 32, 256, 256), and level with all shorter ones down to
// 256 rows. (force_stretch_rows() in turns in one process, LSTM and GRU, AVX2, 2026-11-25.)
struct StretchSize {
  int64_t bytes, rows;
};
constexpr StretchSize kTeamStretch{4 << 20, 1024}, kAloneStretch{1 << 20, 512};
// If not 0, the rows of a stretch: tests want several in a short call.
inline int64_t forced_stretch_rows = 0;
// Parts of a stretch where layers run as a wavefront, and multiply-adds of a part's steps at least: while one layer
// fills or drains it the other threads wait, but every part costs a product of few rows, some 6 us. Parts of 4 steps
// made two layers of T = 100, B = 1, H = 32 0.79 times as fast as one thread (benchmarks/threads.py --only stacked).
constexpr int64_t kWavefrontParts = 16;
constexpr int64_t kWavefrontMacs = 256 * 1024;
// Multiply-adds of a product that is interrupted by Ctrl-C before or after, never within: a fifth of a second on a
// core.
constexpr int64_t kUninterrupted = int64_t{16} << 30;

cpu::Choice plan_pass(const LayerShape& shape, int gates, int element_size, bool backward, int weight_size);

class CpuDevice {
 public:
  template <class T>
  using Accumulator = T;

  explicit CpuDevice(const LayerArgs& args) : place_(args.input) {}

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const { return ops::empty(sizes, dtype, place_); }
  // Memory for the length of a call, uninitialised: the object's own where it is small, for a tensor takes 0.5 us.
  template <class T>
  class Workspace {
   public:
    Workspace(const CpuDevice& device, int64_t count) {
      if (count <= kSmall) return;
      tensor_ = device.empty({count}, scalar_type_of<T>);
      data_ = ops::data<T>(*tensor_);
    }
    Workspace(const Workspace&) = delete;
    T* data() const { return data_; }

   private:
    static constexpr int64_t kSmall = 8192 / sizeof(T);
    alignas(64) T small_[kSmall];
    std::optional<Tensor> tensor_;
    T* data_ = small_;
  };

  // torch's contiguous() would not say why it failed where memory is short.
  Tensor dense(const Tensor& tensor) const {
    if (tensor.is_contiguous()) return tensor;
    std::vector<int64_t> sizes;
    for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
    Tensor copy = empty(sizes, tensor.scalar_type());
    torch::stable::copy_(copy, tensor);
    return copy;
  }

  template <class T>
  void copy(T* to, const T* from, int64_t count) const {
    if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  }
  template <class T>
  void zero(T* to, int64_t count) const {
    if (count > 0) std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
  }

  // out = a b, or out += a b; out's columns lie side by side. Throws if the user interrupts it.
  template <class T>
  void multiply(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                bool accumulate = false) const {
    const int64_t size = out.rows * out.columns * a.columns;
    const bool by_weights = !accumulate && a.column_stride == 1 && b.row_stride == 1 && b.column_stride == b.rows;
    const int64_t bytes = b.rows * b.columns * static_cast<int64_t>(sizeof(T));
    if (by_weights && (out.rows <= kFewRows || is_multiplied_by_panels(out.rows, bytes))) {
      multiply_by_weights(out, a, b);
      return;
    }
    if (size <= kTinyProduct) {
      multiply_tiny(out, a, b, accumulate);
      return;
    }
    if (size <= kUninterrupted) {
      if (out.columns < kNarrow && size > kNarrowProduct) {
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
    if (matrix.rows <= 8) {
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

  // out (N, K): h_{t-1} of every row as w_hh multiplies it. Rows that do not run are left alone.
  template <class T>
  void gather_previous_h(T* out, const Steps& steps, const Matrix<const T>& output, const T* hx,
                         const Extras<T>* extras) const {
    const int64_t size = output.columns;
    for (int64_t s = 0; s < steps.steps; ++s) {
      const int64_t rows = steps.rows(s), ran_before = cpu::smaller(rows, steps.rows(s - 1)), first = steps.offset(s);
      T* to = out + first * size;
      copy_rows(
          Matrix<T>{to, ran_before, size, size},
          Matrix<const T>{output.data + steps.offset(s - 1) * output.row_stride, ran_before, size, output.row_stride});
      copy(to + ran_before * size, hx + ran_before * size, (rows - ran_before) * size);
      if (extras)
        change_previous_h(to, *extras, extras->cuts ? extras->cuts + first : nullptr, s == 0 ? rows : ran_before, rows,
                          size);
    }
  }

 private:
  template <class T>
  void copy_rows(const Matrix<T>& to, const Matrix<const T>& from) const {
    if (from.row_stride == from.columns) return copy(to.data, from.data, to.rows * to.columns);
    for (int64_t row = 0; row < to.rows; ++row) {
      copy(to.data + row * to.row_stride, from.data + row * from.row_stride, to.columns);
    }
  }

  // Resets and masks of the rows (rows, size) of one step, whose cuts are those of the first `cut` rows.
  template <class T>
  void change_previous_h(T* h, const Extras<T>& extras, const uint8_t* cuts, int64_t cut, int64_t rows,
                         int64_t size) const {
    for (int64_t row = 0; cuts && row < cut; ++row) {
      if (cuts[row] == kCutState) copy(h + row * size, extras.reset_h + row * size, size);
    }
    for (int64_t k = 0; extras.h_mask && k < rows * size; ++k) h[k] *= extras.h_mask[k];
  }

  static void check_not_interrupted() { check_finished(!cpu::interrupt_requested || !cpu::interrupt_requested()); }

  // out = a b, with b the transpose of weights whose rows lie one after the other.
  template <class T, class W>
  void multiply_by_weights(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const W>& b) const {
    const auto& kernels = cpu::dtype_kernels<T, W>(cpu::kernels());
    if (out.rows <= kFewRows) {
      kernels.multiply_rows(out.data, out.row_stride, a.data, a.row_stride, out.rows, b.data, out.columns, b.rows);
      return;
    }
    const int64_t macs = out.rows * out.columns * b.rows;
    if (macs > kUninterrupted) {
      check_not_interrupted();
      const int64_t half = out.rows / 2;
      multiply_by_weights(out.row_range(0, half), a.row_range(0, half), b);
      multiply_by_weights(out.row_range(half, out.rows), a.row_range(half, out.rows), b);
      return;
    }
    const int64_t panel = cpu::kMaxPanelVectors * cpu::kernels().vector_bytes / static_cast<int64_t>(sizeof(T));
    const cpu::ProductPlan plan = cpu::choose_product_plan(static_cast<int>(torch::stable::get_num_threads()), out.rows,
                                                           macs, cpu::ceil_div(out.columns, panel));
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

  template <class T>
  void multiply_narrow(const Matrix<T>& out, const Matrix<const T>& a, const Matrix<const T>& b,
                       bool accumulate) const {
    const bool wide_transposed = out.columns > 1 && out.rows >= kNarrow;
    const bool large = out.rows * a.columns > kNarrowOperand;
    if (large && out.rows > a.columns) {
      const int64_t half = out.rows / 2;
      multiply_narrow(out.row_range(0, half), a.row_range(0, half), b, accumulate);
      multiply_narrow(out.row_range(half, out.rows), a.row_range(half, out.rows), b, accumulate);
      return;
    }
    if (large || (!wide_transposed && a.columns > kShortSum)) {
      const int64_t half = a.columns / 2;
      multiply_narrow(out, a.column_range(0, half), b.row_range(0, half), accumulate);
      multiply_narrow(out, a.column_range(half, a.columns), b.row_range(half, a.columns), true);
      return;
    }
    // Not added to `out` by torch: where MKL goes on adding term by term, every term would be rounded to the whole sum.
    const Workspace<T> memory(*this, out.rows * out.columns);
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
    const OnOneThread small(out.rows * out.columns * a.columns <= kOneThreadProduct);
    const Tensor c = as_tensor(out, place_);
    if (accumulate) {
      TORCH_ERROR_CODE_CHECK(
          aoti_torch_cpu_addmm_out(c.get(), c.get(), as_tensor(a, place_).get(), as_tensor(b, place_).get(), 1.0, 1.0));
    } else {
      TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(c.get(), as_tensor(a, place_).get(), as_tensor(b, place_).get()));
    }
  }

  Place place_;
};

// The time loops of a pass.
template <class T, class W = T>
class CpuLoops {
 public:
  CpuLoops(const CpuDevice& device, const LayerArgs& args, const LayerShape& shape, bool backward)
      : device_(device),
        kernels_(cpu::cell_kernels<T, W>(cpu::kernels(), args.cell)),
        layers_(shape.layers),
        dims_(shape.dims),
        plan_(plan_pass(shape, cell_facts(args.cell).gates, sizeof(T), backward, sizeof(W)).plan) {}

  // The recurrences that run one after the other share what the caller makes for one.
  AtOnce at_once() const {
    return {plan_.split == cpu::Split::kLayers ? layers_ : 1, plan_.split == cpu::Split::kDirections ? 2 : 1};
  }

  // Whether forward's time loops multiply the input themselves.
  bool multiplies_input() const { return plan_.input_steps > 0; }

  // Of so many rows in all, each of which writes so many values.
  Cut cut(int64_t total, int64_t columns) const {
    const int64_t rows = stretch_rows(total, columns);
    if (plan_.split != cpu::Split::kLayers) return {rows, 1};
    const int64_t macs = cpu::smaller(rows, total) * columns * dims_.recurrent_size;
    return {rows, cpu::larger(cpu::smaller(macs / kWavefrontMacs, kWavefrontParts), 1)};
  }

  // before(k, i) readies calls[k] for its i-th part, after(k, i) takes what that one left.
  template <class Before, class After>
  void run(std::vector<ForwardCall<T, T, W>>& calls, size_t parts, const Before& before, const After& after) {
    auto loop = kernels_.forward;
    if constexpr (std::is_same_v<T, W>) {
      if (calls[0].params.extras) loop = kernels_.extended.forward;
    }
    int64_t scratch = 0;
    for (const auto& call : calls) scratch = cpu::larger(scratch, kernels_.forward_scratch(call.params.dims, plan_));
    run(loop, scratch, calls, parts, before, after);
  }
  template <class Before, class After>
  void run(std::vector<BackwardCall<T>>& calls, size_t parts, const Before& before, const After& after) {
    const auto loop = calls[0].params.extras ? kernels_.extended.backward : kernels_.backward;
    run(loop, kernels_.backward_scratch(dims_, plan_), calls, parts, before, after);
  }

 private:
  // Short enough for what a stretch's products write to stay near the core until the time loop reads it, long enough
  // for the products to be large.
  int64_t stretch_rows(int64_t total, int64_t columns) const {
    const int64_t row_bytes = cpu::larger(1, columns * static_cast<int64_t>(sizeof(T)));  // no hidden unit, no columns
    if (forced_stretch_rows) return forced_stretch_rows;
    // No product of the caller's.
    if (multiplies_input() && plan_.split != cpu::Split::kLayers) return cpu::larger(total, 1);
    const StretchSize size = plan_.threads > 1 ? kTeamStretch : kAloneStretch;
    if (total * row_bytes <= size.bytes) return cpu::larger(total, 1);
    return cpu::larger(size.bytes / row_bytes, size.rows);
  }

  // Scratch is kept from part to part: each recurrence that runs at the same time has its own.
  template <class Loop, class Call, class Before, class After>
  void run(Loop loop, int64_t scratch_size, std::vector<Call>& calls, size_t parts, const Before& before,
           const After& after) {
    // No two members write to one cache line.
    const int64_t line = 64 / sizeof(T), size = cpu::ceil_div(scratch_size, line) * line;
    const CpuDevice::Workspace<T> scratch(device_, size * static_cast<int64_t>(calls.size()));
    for (size_t k = 0; k < calls.size(); ++k) {
      calls[k].params.scratch = scratch.data() + static_cast<int64_t>(k) * size;
    }
    if (plan_.split == cpu::Split::kLayers) {
      // Whoever runs a part also multiplies what it reads and what it leaves: products so small are not worth dividing.
      const auto job = [&](size_t k, size_t i, cpu::Member& member) {
        before(k, i);
        loop(calls[k], {plan_, member});
        if (!member.stopped()) after(k, i);
      };
      check_finished(cpu::run_wavefront(plan_.threads, calls.size(), parts, job));
      return;
    }
    for (size_t i = 0; i < parts; ++i) {
      for (size_t k = 0; k < calls.size(); ++k) before(k, i);
      check_finished(cpu::run_loops<Call>(loop, plan_, calls) && !interrupt_.requested());
      for (size_t k = 0; k < calls.size(); ++k) after(k, i);
    }
  }

  const CpuDevice& device_;
  const typename cpu::DtypeKernels<T, W>::Cell& kernels_;
  const int64_t layers_;
  const Dims dims_;
  const cpu::Plan plan_;
  cpu::InterruptPoll interrupt_;
};

}  // namespace fastrnn::ops
