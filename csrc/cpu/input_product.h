// The product of a layer's input and w_ih within the time loop, made for a few steps at a time just before these run:
// what it writes is in the core's caches when the cells read it, and no call of a large product has to be paid for.
#pragma once

#include "../params.h"
#include "weights.h"

namespace fastrnn::cpu {

template <class Isa, class T, class W, int kGates>
class InputProduct {
 public:
  using Params = ForwardParams<T, T, W>;

  // With no scratch it only counts.
  InputProduct(const Dims& dims, const Plan& plan, Carver<T>& scratch)
      : steps_(plan.input_steps),
        columns_(kGates * dims.hidden_size),
        weights_({dims.hidden_size, dims.input_size}, steps_ > 0 ? WeightSource::kPacked : WeightSource::kInPlace,
                 scratch) {
    if (is_mine()) gates_ = scratch.take(steps_ * dims.batch * columns_ + gaps<T>(plan));
  }

  void set(const Params& params, const Portion& portion) {
    p_ = &params;
    portion_ = &portion;
    rows_ = portion.rows(params.dims.batch);
    weights_.set(params.w_ih, nullptr, nullptr, -1);
    gates_ += steps_ * rows_.begin * columns_ + portion.gaps_before<T>();
  }

  void prepare(const Member& member) const {
    if (is_mine()) weights_.prepare(member);
  }

  // Whether the loop makes the product, and not the caller.
  FASTRNN_INLINE bool is_mine() const { return steps_ > 0; }

  // To be called at each step, before its cells run.
  FASTRNN_INLINE void begin_step(const Stretch& stretch, int64_t s) {
    if (is_mine() && (s - stretch.begin) % steps_ == 0) begin_block(stretch, s);
  }

  // (B, channel_stride) of the member's rows at a step. Where the caller gave them no place, that of one block is the
  // next one's, too.
  FASTRNN_INLINE T* channels(const Stretch& stretch, int64_t s) const {
    const int64_t row = p_->steps.offset(s);
    if (p_->channels) return p_->channels + (row - stretch.first_row) * p_->channel_stride;
    if (has_all_rows()) return gates_ + (row - first_row_) * columns_;
    return gates_ + ((s - first_step_) * (rows_.end - rows_.begin) - rows_.begin) * columns_;
  }

 private:
  FASTRNN_INLINE bool has_all_rows() const { return rows_.end - rows_.begin == p_->dims.batch; }

  [[gnu::noinline]] void begin_block(const Stretch& stretch, int64_t s) {
    const Steps& steps = p_->steps;
    const int64_t last = smaller(s + steps_, stretch.end) - 1;
    first_step_ = s;
    first_row_ = smaller(steps.offset(s), steps.offset(last));
    const bool all_run = !steps.sizes || steps.offsets;
    if (has_all_rows() && all_run) {  // which lie side by side, of one step and of the next
      const int64_t last_in_time = steps.reverse ? s : last;
      const int64_t rows = steps.offset(last_in_time) + steps.stored_rows(last_in_time) - first_row_;
      multiply(first_row_, {0, rows}, channels(stretch, steps.reverse ? last : s));
    } else {
      for (int64_t step = s; step <= last; ++step) {
        const Range rows = below(rows_, steps.rows(step));
        multiply(steps.offset(step), rows, channels(stretch, step));
      }
    }
    portion_->meet();
  }

  // Of rows that are counted from the first one of the data.
  FASTRNN_INLINE void multiply(int64_t first, const Range& rows, T* out) const {
    const int64_t size = p_->dims.input_size;
    const Operand<T> x{p_->input + first * size, size, size, 1, {0}};
    const StoreSums<Isa, T, kGates> store{out, p_->channel_stride, p_->dims.hidden_size};
    portion_->for_each_panels(weights_.count(), 0, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      weights_.multiply(panels, x, rows.begin, rows.end, store);
    });
  }

  const Params* p_ = nullptr;
  const Portion* portion_ = nullptr;
  const int64_t steps_;    // of a block; 0 where the product is the caller's
  const int64_t columns_;  // G*H
  ForwardWeights<Isa, T, W, kGates> weights_;
  Range rows_{0, 0};
  T* gates_ = nullptr;                      // (steps, rows, G*H) of the member, where there are no channels
  int64_t first_step_ = 0, first_row_ = 0;  // of the block; the row of the data
};

}  // namespace fastrnn::cpu
