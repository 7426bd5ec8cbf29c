// The time loop, backward (BPTT): every step multiplies the next step's gate gradients by the packed w_hh, not
// transposed, and applies the cell's derivative as the GEMM's epilogue. Gradients shared by all steps (dw_ih, dw_hh,
// dx, db) are left to one large GEMM over the gradients written here.
#pragma once

#include "backward_cells.h"

namespace fastrnn::cpu {

// kExtended: there may be extras. Plain recurrences are compiled without any code for them.
template <class Isa, class Cell, class T, bool kExtended = false>
class BackwardLoop {
  using Cells = BackwardCells<Isa, Cell, T, kExtended>;
  using StepContext = typename Cells::StepContext;
  using MaybeExtras = typename Cells::MaybeExtras;

 public:
  static int64_t scratch_size(const Dims& dims, const Plan& plan) {
    Arena<T> count{nullptr};
    BackwardLoop(dims, plan, count);
    return count.used;
  }

  // See CellKernels.
  static void run(const BackwardCall<T>& call, const WorkSlice& slice) {
    BackwardLoop(call.params, slice, Arena<T>{call.params.scratch}).run(call.chunk, call.after);
  }

 private:
  // Gates whose gradients the first GEMM of a step takes; the second GEMM takes the second-pass gate's gradient, or
  // goes through the projection.
  static constexpr int kFirstPassGates = kRecurrentGates<Cell>;

  static FASTRNN_INLINE bool has_second(const Dims& dims) {
    return kMayHaveSecond<Cell> && (Cell::kSecondPassGates > 0 || dims.projected);
  }

  BackwardLoop(const Dims& dims, const Plan& plan, Arena<T>& scratch)
      : dims_(dims),
        first_({Cell::kMultipliesH ? dims.recurrent_size : 0, kFirstPassGates * dims.hidden_size}, plan.weights,
               scratch),
        second_({has_second(dims) ? dims.hidden_size : 0, dims.recurrent_size}, plan.weights, scratch) {
    if (kNormalizes<Cell>) grad_hidden_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizesCell<Cell>) dc_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizesCell<Cell>) candidate_c_ = scratch.take(dims.batch * dims.hidden_size);
  }

  BackwardLoop(const BackwardParams<T>& params, const WorkSlice& slice, Arena<T>&& scratch)
      : BackwardLoop(params.dims, slice.plan, scratch) {
    p_ = &params;
    first_.set(params.w_hh);
    second_.set(Cell::kSecondPassGates > 0
                    ? params.w_hh + kFirstPassGates * params.dims.hidden_size * params.dims.recurrent_size
                    : params.w_hr);
    slice_ = &slice;
    rows_ = slice.rows(params.dims.batch);
  }

  void run(const Chunk& chunk, const T* after) {
    chunk_ = chunk;
    after_ = after;
    if (chunk.end == p_->steps.steps) prepare();
    // s = -1 only passes the gradients of the first step's rows on to hx.
    const int64_t last = chunk.begin == 0 ? -1 : chunk.begin;
    for (int64_t s = chunk.end - 1; s >= last; --s) {
      run_recurrent(s);
      if (has_second(dims_) && s >= 0) {
        slice_->sync();
        run_second(s);
      }
      if (kNormalizes<Cell> && s >= 0) {
        slice_->sync();
        run_rows(s);
      }
      if (!slice_->template end_step<Cell::kMultipliesH>(p_->steps.steps - 1 - s)) return;
    }
  }

  void prepare() {
    first_.prepare(slice_->worker);
    second_.prepare(slice_->worker);
    slice_->worker.barrier();
  }

  FASTRNN_INLINE bool prefetches_step() const {
    return fits_step_prefetch<T>(rows_, Cell::kSavedValues * dims_.hidden_size);
  }

  FASTRNN_INLINE StepContext step_context(int64_t s) const {
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
            grad_saved_of(s),
            grad_hidden_,
            dc_,
            candidate_c_,
            !prefetches_step(),
            extras_at(s)};
  }

  FASTRNN_INLINE T* grad_saved_of(int64_t s) const {
    return p_->grad_saved + (p_->steps.offset(s) - chunk_.first_row) * Cell::kSavedValues * dims_.hidden_size;
  }

  FASTRNN_INLINE MaybeExtras extras_at(int64_t s) const {
    if constexpr (kExtended) {
      return {*p_->extras, p_->steps, s, dims_, p_->hx, p_->output, p_->output_stride};
    } else {
      return {};
    }
  }

  FASTRNN_INLINE Range rows_of(int64_t s) const { return below(rows_, p_->steps.rows(s)); }

  // Prefetches what the cells of step s read and no other step has brought into the cache.
  FASTRNN_INLINE void prefetch_step(int64_t s) const {
    const int64_t hidden = dims_.hidden_size, recurrent = dims_.recurrent_size, saved = Cell::kSavedValues * hidden;
    const int64_t at = p_->steps.offset(s), before = p_->steps.offset(s - 1);
    if (Cell::kReadsSaved) prefetch_values(p_->saved + at * saved, saved, rows_of(s), saved);
    if (p_->grad_output) {
      prefetch_values(p_->grad_output + at * p_->grad_output_stride, p_->grad_output_stride, rows_of(s), recurrent);
    }
    if (Cell::kReadsH) prefetch_values(p_->output + at * p_->output_stride, p_->output_stride, rows_of(s), recurrent);
    if (Cell::kReadsPreviousH) {
      prefetch_values(p_->output + before * p_->output_stride, p_->output_stride, rows_of(s - 1), recurrent);
    }
    for (int k = 0; k < Cell::kCellStates; ++k) {
      prefetch_values(p_->cells[k] + before * hidden, hidden, rows_of(s - 1), hidden);
    }
  }

  // dh_t, from step s + 1 through w_hh and from the output, then the cell's derivative (or, with a projection, the
  // gradient of its output). Rows that ran at s + 1 but not at s pass their gradient on to hx; rows that end at s start
  // from that of hy.
  void run_recurrent(int64_t s) {
    const StepContext ctx = step_context(s);
    if (prefetches_step() && slice_->has_whole_rows() && s > chunk_.begin) prefetch_step(s - 1);
    if constexpr (!Cell::kMultipliesH) return run_units(s, ctx);
    const T* after = s + 1 == chunk_.end ? after_ : grad_saved_of(s + 1);
    Operand<T> grads{after, Cell::kSavedValues * ctx.hidden, ctx.hidden, kFirstPassGates, {}};
    for (int gate = 0; gate < kFirstPassGates; ++gate) grads.starts[gate] = Cell::recurrent_slot(gate) * ctx.hidden;
    Operand<T> nothing = grads;
    nothing.count = 0;

    const Range ran_after = rows_of(s + 1);
    const int64_t first_end = larger(rows_.begin, ctx.rows_after);
    const Range ends_here{first_end, larger(smaller(rows_.end, ctx.rows), first_end)};
    const typename Cells::RecurrentEpilogue epilogue{ctx};
    slice_->for_each_panels(first_.count(), s, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      multiply_with_epilogue<kOutOfLineEpilogue<Cell>, T>(first_, panels, grads, ran_after.begin, ran_after.end,
                                                          epilogue);
      if (ends_here.begin < ends_here.end) {
        multiply_with_epilogue<kOutOfLineEpilogue<Cell>, T>(first_, panels, nothing, ends_here.begin, ends_here.end,
                                                            epilogue);
      }
    });
  }

  // Of a cell without w_hh: every row that runs at the step, or ran at the one after.
  FASTRNN_INLINE void run_units(int64_t s, const StepContext& ctx) {
    alignas(64) static constexpr T kNothing[Simd<Isa, T>::kLanes] = {};
    const Range rows{rows_.begin, larger(rows_of(s).end, rows_of(s + 1).end)};
    const typename Cells::RecurrentEpilogue epilogue{ctx};
    for_each_unit<Isa, T>(*slice_, rows, ctx.hidden, [&](int64_t row, int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      epilogue(row, unit, lanes, kNothing);
    });
  }

  void run_second(int64_t s) {
    if constexpr (kMayHaveSecond<Cell>) {
      const StepContext ctx = step_context(s);
      const Operand<T> grads =
          Cell::kSecondPassGates > 0
              ? Operand<T>{ctx.grad_saved,
                           Cell::kSavedValues * ctx.hidden,
                           ctx.hidden,
                           1,
                           {kFirstPassGates * ctx.hidden}}
              : Operand<T>{p_->grad_projected + ctx.first * ctx.recurrent, ctx.recurrent, ctx.recurrent, 1, {0}};
      const Range rows = rows_of(s);
      slice_->for_each_panels(second_.count(), s, [&](const Range& panels) {
        const typename Cells::SecondEpilogue epilogue{ctx};
        multiply_with_epilogue<kOutOfLineEpilogue<Cell>, T>(second_, panels, grads, rows.begin, rows.end, epilogue);
      });
    }
  }

  // For a cell with layer normalisation, once the gradient of h is complete for a whole row.
  void run_rows(int64_t s) {
    if constexpr (kNormalizes<Cell>) {
      const StepContext ctx = step_context(s);
      const Range mine = slice_->partition(rows_of(s));
      for (int64_t row = mine.begin; row < mine.end; ++row) Cells::finish_row(ctx, row);
    }
  }

  const BackwardParams<T>* p_ = nullptr;
  const WorkSlice* slice_ = nullptr;
  Chunk chunk_{};
  const T* after_ = nullptr;
  Dims dims_;
  Range rows_{0, 0};
  BackwardWeights<Isa, T> first_, second_;
  T *grad_hidden_ = nullptr, *dc_ = nullptr, *candidate_c_ = nullptr;  // see StepContext
};

}  // namespace fastrnn::cpu
