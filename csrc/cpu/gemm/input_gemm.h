// The GEMM of a layer's input with w_ih inside the time loop, for a few steps at a time just before they run: its
// results are still in the core's caches when the cells read them, and the overhead of calling a large GEMM is saved.
#pragma once

#include "../../params.h"
#include "../loop/weights.h"
#include "rounded_rows.h"

namespace fastrnn::cpu {

template <class Isa, class T, class W>
class InputGemm {
 public:
  using Call = ForwardCall<T, T, W>;

  // columns: G*H. With no memory it only measures how much is needed.
  InputGemm(int64_t columns, const Dims& dims, const Plan& plan, Arena<T>& frozen, Arena<T>& scratch)
      : steps_(plan.input_steps),
        columns_(columns),
        weights_({columns, dims.input_size}, source(dims), dims.input_frozen ? frozen : scratch),
        rounded_(dims.batch, steps_, dims.input_size, plan, scratch) {
    if (is_mine()) gates_ = scratch.take(steps_ * dims.batch * columns + row_padding<T>(plan));
  }

  void set(const Call& call, const WorkSlice& slice) {
    p_ = &call.params;
    chunk_ = call.chunk;
    slice_ = &slice;
    rows_ = slice.rows(p_->dims.batch);
    weights_.set(p_->w_ih, nullptr, nullptr, 0, p_->scales_ih);
    if (is_mine()) gates_ += steps_ * rows_.begin * columns_ + slice.row_padding_before<T>();
  }

  void prepare(const Worker& worker) const {
    if (is_mine()) weights_.prepare(worker);
  }

  // Whether the loop multiplies the input, rather than its caller.
  FASTRNN_INLINE bool is_mine() const { return steps_ > 0; }

  // Call at each step, before its cells run.
  FASTRNN_INLINE void begin_step(int64_t s) {
    if (is_mine() && (s - chunk_.begin) % steps_ == 0) begin_block(s);
  }

  // (B, saved_stride): the worker's rows at a step. Where the caller provides no memory for them, each block reuses
  // that of the block before.
  FASTRNN_INLINE T* saved(int64_t s) const {
    const int64_t row = p_->steps.offset(s);
    if (p_->saved) return p_->saved + (row - chunk_.first_row) * p_->saved_stride;
    if (has_all_rows()) return gates_ + (row - first_row_) * columns_;
    return gates_ + ((s - first_step_) * own_rows() - rows_.begin) * columns_;
  }

 private:
  WeightSource source(const Dims& dims) const {
    if (dims.input_frozen) return WeightSource::kFrozen;
    return is_mine() ? WeightSource::kPacked : WeightSource::kInPlace;
  }
  FASTRNN_INLINE int64_t own_rows() const { return rows_.end - rows_.begin; }
  FASTRNN_INLINE bool has_all_rows() const { return own_rows() == p_->dims.batch; }

  [[gnu::noinline]] void begin_block(int64_t s) {
    const Steps& steps = p_->steps;
    const int64_t count = smaller(steps_, chunk_.end - s), last = s + count - 1;
    first_step_ = s;
    first_row_ = smaller(steps.offset(s), steps.offset(last));
    if (has_all_rows() && (!steps.sizes || steps.offsets)) {  // contiguous over the steps
      multiply_all_rows(steps.reverse ? last : s, steps.reverse ? s : last);
    } else if (!steps.sizes && count > own_rows()) {
      multiply_row_by_row(s, count);
    } else {
      for (int64_t step = s; step <= last; ++step) multiply_step(step);
    }
    slice_->sync();
  }

  // All rows of the steps from one to the other, as they are stored.
  void multiply_all_rows(int64_t begins, int64_t ends) const {
    const int64_t end_row = p_->steps.offset(ends) + p_->steps.stored_rows(ends);
    multiply({first_row_, 1, end_row - first_row_}, saved(begins), 1);
  }

  // Row by row over `count` steps, if these are more than the rows of a step: the larger GEMM has fuller tiles.
  void multiply_row_by_row(int64_t s, int64_t count) const {
    const int64_t batch = p_->steps.batch, stride = p_->saved_stride;
    T* const out = saved(s);
    const int64_t out_apart = count > 1 ? (saved(s + 1) - out) / stride : 0;
    for (int64_t row = rows_.begin; row < rows_.end; ++row) {
      multiply({p_->steps.offset(s) + row, p_->steps.reverse ? -batch : batch, count}, out + row * stride, out_apart);
    }
  }

  void multiply_step(int64_t s) const {
    const Range rows = below(rows_, p_->steps.rows(s));
    multiply({p_->steps.offset(s) + rows.begin, 1, rows.end - rows.begin}, saved(s) + rows.begin * p_->saved_stride, 1);
  }

  // Rows of the data, each `apart` rows after the one before.
  struct Rows {
    int64_t first, apart, count;
  };

  // Into rows of out, each out_apart after the one before.
  void multiply(const Rows& rows, T* out, int64_t out_apart) const {
    const int64_t size = p_->dims.input_size;
    const auto x = rounded_(Operand<T>{p_->input + rows.first * size, rows.apart * size, size, 1, {0}}, 0, rows.count,
                            slice_->worker);
    const StoreSums<Isa, T> store{out, out_apart * p_->saved_stride};
    slice_->for_each_panels(weights_.count(), 0, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      weights_.multiply(panels, x, 0, rows.count, store);
    });
  }

  const ForwardParams<T, T, W>* p_ = nullptr;
  const WorkSlice* slice_ = nullptr;
  Chunk chunk_{};
  const int64_t steps_;  // per block; 0 if the caller multiplies the input
  const int64_t columns_;
  ForwardWeights<Isa, T, W, 1> weights_;
  RoundedRows<Isa, T, W> rounded_;
  Range rows_{0, 0};                        // the worker's
  T* gates_ = nullptr;                      // (steps, rows, G*H): the worker's, if no saved values are kept
  int64_t first_step_ = 0, first_row_ = 0;  // of the block; the row is one of the data
};

}  // namespace fastrnn::cpu
