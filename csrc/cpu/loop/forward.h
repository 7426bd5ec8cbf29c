// The time loop, forward: every step multiplies h_{t-1} by the packed w_hh, with the cell fused in as the GEMM's
// epilogue.
#pragma once

#include "../gemm/input_gemm.h"
#include "forward_cells.h"

namespace fastrnn::cpu {

// kExtended: there may be extras. Plain recurrences are compiled without any code for them.
template <class Isa, class Cell, class T, class W = T, bool kExtended = false>
class ForwardLoop {
  using Cells = ForwardCells<Isa, Cell, T, W, kExtended>;
  using StepContext = typename Cells::StepContext;
  using MaybeExtras = typename Cells::MaybeExtras;
  using Params = typename Cells::Params;
  using Call = ForwardCall<T, T, W>;

 public:
  static int64_t scratch_size(const Dims& dims, const Plan& plan) {
    Arena<T> frozen{nullptr}, scratch{nullptr};
    ForwardLoop(dims, plan, frozen, scratch);
    return scratch.used;
  }

  static int64_t frozen_size(const Dims& dims) {
    Arena<T> frozen{nullptr};
    RecurrentWeights(dims, WeightSource::kPacked, frozen);
    if (dims.input_frozen) InputWeights(input_grid(dims), WeightSource::kPacked, frozen);
    return frozen.used;
  }

  // See ForwardKernels.
  static void freeze(const Params& params, T* frozen) {
    Arena<T> memory{frozen};
    RecurrentWeights weights(params.dims, WeightSource::kPacked, memory);
    weights.set(params);
    const Worker alone{0, 1, nullptr, false};
    weights.prepare(alone);
    if (!params.dims.input_frozen) return;
    InputWeights input(input_grid(params.dims), WeightSource::kPacked, memory);
    input.set(params.w_ih, nullptr, nullptr, 0, params.scales_ih);
    input.prepare(alone);
  }

  // See ForwardKernels.
  static void run(const Call& call, const WorkSlice& slice) {
    ForwardLoop(call, slice, Arena<T>{call.params.frozen}, Arena<T>{call.params.scratch}).run();
  }

 private:
  static constexpr int kFirstPassGates = Cells::kFirstPassGates;
  using InputWeights = ForwardWeights<Isa, T, W, 1>;

  static PanelGrid<Isa, T, 1> input_grid(const Dims& dims) {
    return {Cell::kGates * dims.hidden_size, dims.input_size};
  }

  struct RecurrentWeights {
    ForwardWeights<Isa, T, W, Cell::kMultipliesH ? kFirstPassGates : 1> first;
    ForwardWeights<Isa, T, W, 1> second;

    RecurrentWeights(const Dims& dims, WeightSource source, Arena<T>& memory)
        : first({Cell::kMultipliesH ? dims.hidden_size : 0, dims.recurrent_size}, source, memory),
          second({has_second(dims) ? dims.recurrent_size : 0, dims.hidden_size}, source, memory) {}

    void set(const Params& params) {
      if constexpr (kNormalizes<Cell>) {
        first.set(params.w_hh, nullptr, nullptr, 0, nullptr);
      } else {
        first.set(params.w_hh, params.b_ih, params.b_hh, Cell::kSeparateBiases, params.scales_hh);
      }
      if constexpr (Cell::kSecondPassGates > 0) {
        const int64_t row = kFirstPassGates * params.dims.hidden_size;
        second.set(params.w_hh + row * params.dims.recurrent_size, params.b_ih ? params.b_ih + row : nullptr,
                   params.b_hh ? params.b_hh + row : nullptr, 0, nullptr);
      } else {
        second.set(params.w_hr, params.b_hr, nullptr, 0, params.scales_hr);
      }
    }
    void prepare(const Worker& worker) const {
      first.prepare(worker);
      second.prepare(worker);
    }
  };

  static FASTRNN_INLINE bool has_second(const Dims& dims) {
    return kMayHaveSecond<Cell> && (Cell::kSecondPassGates > 0 || dims.projected);
  }

  ForwardLoop(const Dims& dims, const Plan& plan, Arena<T>& frozen, Arena<T>& scratch)
      : dims_(dims),
        weights_(dims, plan.weights, plan.weights == WeightSource::kFrozen ? frozen : scratch),
        rounded_(dims.batch, 1, larger(dims.recurrent_size, has_second(dims) ? dims.hidden_size : 0), plan, scratch),
        input_(Cell::kGates * dims.hidden_size, dims, plan, frozen, scratch) {
    if (has_second(dims) || kNormalizesCell<Cell>) operand_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizes<Cell>) product_ = scratch.take(dims.batch * Cell::kGates * dims.hidden_size);
    for (T*& state : state_) state = scratch.take(dims.batch * dims.recurrent_size + row_padding<T>(plan));
    for (int k = 0; k < Cell::kCellStates; ++k) {
      cell_[k] = scratch.take(dims.batch * dims.hidden_size + row_padding<T>(plan));
    }
  }

  ForwardLoop(const Call& call, const WorkSlice& slice, Arena<T>&& frozen, Arena<T>&& scratch)
      : ForwardLoop(call.params.dims, slice.plan, frozen, scratch) {
    p_ = &call.params;
    chunk_ = call.chunk;
    weights_.set(*p_);
    input_.set(call, slice);
    slice_ = &slice;
    rows_ = slice.rows(dims_.batch);
    const int64_t gap = slice.row_padding_before<T>();
    for (T*& state : state_) state += gap;
    for (int k = 0; k < Cell::kCellStates; ++k) cell_[k] += gap;
  }

  void run() {
    if (chunk_.begin == 0) prepare();
    for (int64_t s = chunk_.begin; s < chunk_.end; ++s) {
      input_.begin_step(s);
      run_cell(s);
      if constexpr (kNormalizes<Cell>) {
        slice_->sync();
        run_rows(s);
      }
      if (has_second(dims_)) {
        slice_->sync();
        run_second(s);
      }
      if (!slice_->template end_step<Cell::kMultipliesH>(s)) return;
    }
    for (int k = 0; chunk_.end == p_->steps.steps && k < Cell::kCellStates; ++k) copy_out(p_->cell[k], cell_[k]);
  }

  // Copies the worker's share of (B, H) values that the last step wrote; for workers that do not wait, only its own.
  void copy_out(T* to, const T* from) const {
    if constexpr (Cell::kMultipliesH) return copy_values(to, from);
    using S = Simd<Isa, T>;
    for_each_unit<Isa, T>(*slice_, rows_, dims_.hidden_size, [&](int64_t row, int64_t unit, int lanes) {
      const int64_t at = row * dims_.hidden_size + unit;
      S::store(to + at, S::load(from + at, lanes), lanes);
    });
  }

  // Copies the worker's share of (B, H) values.
  void copy_values(T* to, const T* from) const {
    const Range mine = slice_->values(dims_.batch, dims_.hidden_size);
    for (int64_t k = mine.begin; k < mine.end; ++k) to[k] = from[k];
  }

  // Prepares the worker's share of the weights, and sets both states to hx: a row that joins late finds it in either,
  // and a row that never runs has it as hy.
  void prepare() {
    weights_.prepare(slice_->worker);
    input_.prepare(slice_->worker);
    const Range fill = slice_->values(dims_.batch, dims_.recurrent_size);
    for (int64_t k = fill.begin; k < fill.end; ++k) state_[0][k] = state_[1][k] = p_->hy[k] = p_->hx[k];
    for (int k = 0; k < Cell::kCellStates; ++k) copy_values(cell_[k], p_->cell[k]);
    if constexpr (kExtended) prepare_extras(fill);
    slice_->worker.barrier();
  }

  // The initial states, where they are not those of the call.
  void prepare_extras(const Range& fill) {
    const Extras<T>& extras = *p_->extras;
    const int64_t recurrent = dims_.recurrent_size, rows = p_->steps.rows(0), first = p_->steps.offset(0);
    const auto replaced = [&](int64_t row) {
      return extras.cuts && row < rows && extras.cuts[first + row] == kCutState;
    };
    for (int64_t k = fill.begin; k < fill.end; ++k) {
      if (replaced(k / recurrent)) state_[0][k] = state_[1][k] = extras.reset_h[k];
      if (extras.h_mask) state_[0][k] = state_[1][k] = state_[0][k] * extras.h_mask[k];
    }
    const Range cells = slice_->values(dims_.batch, dims_.hidden_size);
    for (int state = 0; state < Cell::kCellStates; ++state) {
      for (int64_t k = cells.begin; k < cells.end; ++k) {
        if (replaced(k / dims_.hidden_size)) cell_[state][k] = extras.reset_cell[state][k];
      }
    }
  }

  FASTRNN_INLINE Range rows_of(int64_t s) const { return below(rows_, p_->steps.rows(s)); }
  FASTRNN_INLINE bool prefetches_step() const { return fits_step_prefetch<T>(rows_, p_->saved_stride); }

  FASTRNN_INLINE StepContext step_context(int64_t s) const {
    const Steps& steps = p_->steps;
    T* const saved = input_.saved(s);
    return {*p_,
            dims_.hidden_size,
            dims_.recurrent_size,
            dims_.projected,
            rows_of(s),
            steps.offset(s),
            saved,
            steps.rows(s + 1),
            state_[s % 2],
            state_[(s + 1) % 2],
            cell_,
            operand_,
            p_->keep ? saved + (Cell::kSavedValues - Cell::kGates) * dims_.hidden_size : product_,
            p_->keep ? p_->saved_stride : Cell::kGates * dims_.hidden_size,
            !prefetches_step(),
            extras_at(s)};
  }

  FASTRNN_INLINE MaybeExtras extras_at(int64_t s) const {
    if constexpr (kExtended) {
      return {*p_->extras, p_->steps, s, dims_, p_->hx, p_->output, p_->output_stride};
    } else {
      return {};
    }
  }

  // Prefetches what the cells of step s read and no step before has brought into the cache.
  FASTRNN_INLINE void prefetch_step(int64_t s) const {
    prefetch_values(input_.saved(s), p_->saved_stride, rows_of(s), Cell::kGates * dims_.hidden_size);
  }

  void run_cell(int64_t s) {
    const StepContext ctx = step_context(s);
    if (!input_.is_mine() && prefetches_step() && slice_->has_whole_rows() && s + 1 < chunk_.end) prefetch_step(s + 1);
    if constexpr (!Cell::kMultipliesH) {
      const typename Cells::CellEpilogue epilogue{ctx};
      for_each_unit<Isa, T>(*slice_, ctx.rows, ctx.hidden,
                            [&](int64_t row, int64_t unit, int lanes)
                                FASTRNN_INLINE_LAMBDA { epilogue(row, unit, lanes, nullptr); });
      return;
    }
    const auto h = rounded_(Operand<T>{ctx.h_prev, ctx.recurrent, ctx.recurrent, 1, {0}}, ctx.rows.begin, ctx.rows.end,
                            slice_->worker);
    slice_->for_each_panels(weights_.first.count(), s, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      const typename Cells::CellEpilogue epilogue{ctx};
      multiply_with_epilogue<kOutOfLineEpilogue<Cell>, T>(weights_.first, panels, h, ctx.rows.begin, ctx.rows.end,
                                                          epilogue);
    });
  }

  // For a cell with layer normalisation, which needs the GEMM's results for a whole row.
  void run_rows(int64_t s) {
    const StepContext ctx = step_context(s);
    const Range mine = slice_->partition(ctx.rows);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      Cells::finish_row(ctx, row);
      if constexpr (kNormalizesCell<Cell>) Cells::finish_normalized_c(ctx, row);
    }
  }

  void run_second(int64_t s) {
    if constexpr (kMayHaveSecond<Cell>) {
      const StepContext ctx = step_context(s);
      const auto operand = rounded_(Operand<T>{ctx.operand, ctx.hidden, ctx.hidden, 1, {0}}, ctx.rows.begin,
                                    ctx.rows.end, slice_->worker);
      slice_->for_each_panels(weights_.second.count(), s, [&](const Range& panels) {
        const typename Cells::SecondEpilogue epilogue{ctx};
        multiply_with_epilogue<kOutOfLineEpilogue<Cell>, T>(weights_.second, panels, operand, ctx.rows.begin,
                                                            ctx.rows.end, epilogue);
      });
    }
  }

  const Params* p_ = nullptr;
  const WorkSlice* slice_ = nullptr;
  Chunk chunk_{};
  Dims dims_;
  Range rows_{0, 0};
  RecurrentWeights weights_;
  RoundedRows<Isa, T, W> rounded_;
  InputGemm<Isa, T, W> input_;
  // (B, H), the left operand of the second GEMM: this step's h before the projection, or r * h_{t-1}. Until c is
  // normalised, it holds c.
  T* operand_ = nullptr;
  T* product_ = nullptr;   // (B, G*H): W_hh h, with layer normalisation, if it is not saved
  T* state_[2];            // (B, K): h_{t-1} and h_t, double-buffered by the parity of s
  CellStates<T*> cell_{};  // (B, H)
};

}  // namespace fastrnn::cpu
