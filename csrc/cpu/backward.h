// The time loop, backward (BPTT): every step multiplies the next step's gate gradients by the packed w_hh, the other
// way, and takes the cell's derivative in the same tile. What all steps share (dw_ih, dw_hh, dx, db) is left to one
// large product over the gradients written here.
#pragma once

#include "backward_cells.h"

namespace fastrnn::cpu {

// kExtended: there may be extras. Plain recurrences are compiled without a trace of them.
template <class Isa, class Cell, class T, bool kExtended = false>
class BackwardLoop {
  using Cells = BackwardCells<Isa, Cell, T, kExtended>;
  using Now = typename Cells::Now;
  using AtStep = typename Cells::AtStep;

 public:
  static int64_t scratch_size(const Dims& dims, const Plan& plan) {
    Carver<T> count{nullptr};
    BackwardLoop(dims, plan, count);
    return count.used;
  }

  // See CellKernels.
  static void run(const BackwardCall<T>& call, const Portion& portion) {
    BackwardLoop(call.params, portion, Carver<T>{call.params.scratch}).run(call.stretch, call.after);
  }

 private:
  // Gates whose gradients the first product of a step takes; the second product is that of the late gate's gradient, or
  // goes through the projection.
  static constexpr int kEarlyGates = Cell::kGates - Cell::kLateGates;

  static FASTRNN_INLINE bool has_second(const Dims& dims) {
    return kMayHaveSecond<Cell> && (Cell::kLateGates > 0 || dims.projected);
  }

  BackwardLoop(const Dims& dims, const Plan& plan, Carver<T>& scratch)
      : dims_(dims),
        first_({dims.recurrent_size, kEarlyGates * dims.hidden_size}, plan.weights, scratch),
        second_({has_second(dims) ? dims.hidden_size : 0, dims.recurrent_size}, plan.weights, scratch) {
    if (kNormalizes<Cell>) grad_hidden_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizesCell<Cell>) dc_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizesCell<Cell>) candidate_c_ = scratch.take(dims.batch * dims.hidden_size);
  }

  BackwardLoop(const BackwardParams<T>& params, const Portion& portion, Carver<T>&& scratch)
      : BackwardLoop(params.dims, portion.plan, scratch) {
    p_ = &params;
    first_.set(params.w_hh);
    second_.set(Cell::kLateGates > 0 ? params.w_hh + kEarlyGates * params.dims.hidden_size * params.dims.recurrent_size
                                     : params.w_hr);
    portion_ = &portion;
    rows_ = portion.rows(params.dims.batch);
  }

  void run(const Stretch& stretch, const T* after) {
    stretch_ = stretch;
    after_ = after;
    if (stretch.end == p_->steps.steps) prepare();
    // s = -1 only hands the gradients of the first step's rows on to hx.
    const int64_t last = stretch.begin == 0 ? -1 : stretch.begin;
    for (int64_t s = stretch.end - 1; s >= last; --s) {
      run_recurrent(s);
      if (has_second(dims_) && s >= 0) {
        portion_->meet();
        run_second(s);
      }
      if (kNormalizes<Cell> && s >= 0) {
        portion_->meet();
        run_rows(s);
      }
      if (!portion_->end_step(p_->steps.steps - 1 - s)) return;
    }
  }

  void prepare() {
    first_.prepare(portion_->member);
    second_.prepare(portion_->member);
    portion_->member.barrier();
  }

  FASTRNN_INLINE bool asks_ahead() const { return is_asked_ahead<T>(rows_, Cell::kChannels * dims_.hidden_size); }

  FASTRNN_INLINE Now at_step(int64_t s) const {
    const Steps& steps = p_->steps;
    return {*p_,
            dims_.hidden_size,
            dims_.recurrent_size,
            dims_.projected,
            steps.rows(s),
            steps.rows(s - 1),
            steps.rows(s + 1),
            steps.offset(s),
            steps.offset(s - 1),
            grad_channels_of(s),
            grad_hidden_,
            dc_,
            candidate_c_,
            !asks_ahead(),
            extras_at(s)};
  }

  FASTRNN_INLINE T* grad_channels_of(int64_t s) const {
    return p_->grad_channels + (p_->steps.offset(s) - stretch_.first_row) * Cell::kChannels * dims_.hidden_size;
  }

  FASTRNN_INLINE AtStep extras_at(int64_t s) const {
    if constexpr (kExtended) {
      return {*p_->extras, p_->steps, s, dims_, p_->hx, p_->output, p_->output_stride};
    } else {
      return {};
    }
  }

  FASTRNN_INLINE Range rows_of(int64_t s) const { return below(rows_, p_->steps.rows(s)); }

  // What the cells of step s read that no step has brought into the cache.
  FASTRNN_INLINE void ask_for_step(int64_t s) const {
    const int64_t hidden = dims_.hidden_size, recurrent = dims_.recurrent_size, channels = Cell::kChannels * hidden;
    const int64_t at = p_->steps.offset(s), before = p_->steps.offset(s - 1);
    if (Cell::kKeepsChannels) ask_for(p_->channels + at * channels, channels, rows_of(s), channels);
    if (p_->grad_output) {
      ask_for(p_->grad_output + at * p_->grad_output_stride, p_->grad_output_stride, rows_of(s), recurrent);
    }
    if (Cell::kReadsH) ask_for(p_->output + at * p_->output_stride, p_->output_stride, rows_of(s), recurrent);
    if (Cell::kReadsPreviousH) {
      ask_for(p_->output + before * p_->output_stride, p_->output_stride, rows_of(s - 1), recurrent);
    }
    if (Cell::kHasCellState) ask_for(p_->cells + before * hidden, hidden, rows_of(s - 1), hidden);
  }

  // dh_t, from step s + 1 through w_hh and from the output, then the cell (or, with a projection, the way to it).
  // Rows that ran at s + 1 but not at s hand their gradient on to hx; rows that end at s bring that of hy.
  void run_recurrent(int64_t s) {
    const Now now = at_step(s);
    if (asks_ahead() && portion_->has_whole_rows() && s > stretch_.begin) ask_for_step(s - 1);
    const T* after = s + 1 == stretch_.end ? after_ : grad_channels_of(s + 1);
    Operand<T> grads{after, Cell::kChannels * now.hidden, now.hidden, kEarlyGates, {}};
    for (int gate = 0; gate < kEarlyGates; ++gate) grads.starts[gate] = Cell::recurrent_channel(gate) * now.hidden;
    Operand<T> nothing = grads;
    nothing.count = 0;

    const Range ran_after = rows_of(s + 1);
    const int64_t first_end = larger(rows_.begin, now.rows_after);
    const Range ends_here{first_end, larger(smaller(rows_.end, now.rows), first_end)};
    const typename Cells::FinishRecurrent finish{now};
    portion_->for_each_panels(first_.count(), s, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      multiply_and_finish<kFinishedApart<Cell>>(first_, panels, grads, ran_after.begin, ran_after.end, finish);
      if (ends_here.begin < ends_here.end) {
        multiply_and_finish<kFinishedApart<Cell>>(first_, panels, nothing, ends_here.begin, ends_here.end, finish);
      }
    });
  }

  void run_second(int64_t s) {
    if constexpr (kMayHaveSecond<Cell>) {
      const Now now = at_step(s);
      const Operand<T> grads =
          Cell::kLateGates > 0
              ? Operand<T>{now.grad_channels, Cell::kChannels * now.hidden, now.hidden, 1, {kEarlyGates * now.hidden}}
              : Operand<T>{p_->grad_projected + now.first * now.recurrent, now.recurrent, now.recurrent, 1, {0}};
      const Range rows = rows_of(s);
      portion_->for_each_panels(second_.count(), s, [&](const Range& panels) {
        const typename Cells::FinishSecond finish{now};
        multiply_and_finish<kFinishedApart<Cell>>(second_, panels, grads, rows.begin, rows.end, finish);
      });
    }
  }

  // Of a cell that normalises, once the gradient of the whole row's h is there.
  void run_rows(int64_t s) {
    if constexpr (kNormalizes<Cell>) {
      const Now now = at_step(s);
      const Range mine = portion_->deal(rows_of(s));
      for (int64_t row = mine.begin; row < mine.end; ++row) Cells::finish_row(now, row);
    }
  }

  const BackwardParams<T>* p_ = nullptr;
  const Portion* portion_ = nullptr;
  Stretch stretch_{};
  const T* after_ = nullptr;
  Dims dims_;
  Range rows_{0, 0};
  BackwardWeights<Isa, T> first_, second_;
  T *grad_hidden_ = nullptr, *dc_ = nullptr, *candidate_c_ = nullptr;  // see Now
};

}  // namespace fastrnn::cpu
