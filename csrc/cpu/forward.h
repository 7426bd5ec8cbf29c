// The time loop, forward: every step multiplies h_{t-1} by the packed w_hh and finishes the cell in the same tile.
#pragma once

#include "forward_cells.h"
#include "input_product.h"

namespace fastrnn::cpu {

// kExtended: there may be extras. Plain recurrences are compiled without a trace of them.
template <class Isa, class Cell, class T, class W = T, bool kExtended = false>
class ForwardLoop {
  using Cells = ForwardCells<Isa, Cell, T, W, kExtended>;
  using Now = typename Cells::Now;
  using AtStep = typename Cells::AtStep;
  using Params = typename Cells::Params;
  using Call = ForwardCall<T, T, W>;

 public:
  static int64_t scratch_size(const Dims& dims, const Plan& plan) {
    Carver<T> frozen{nullptr}, scratch{nullptr};
    ForwardLoop(dims, plan, frozen, scratch);
    return scratch.used;
  }

  static int64_t frozen_size(const Dims& dims) {
    Carver<T> frozen{nullptr};
    RecurrentWeights(dims, WeightSource::kPacked, frozen);
    return frozen.used;
  }

  // See ForwardKernels.
  static void freeze(const Params& params, T* frozen) {
    Carver<T> memory{frozen};
    RecurrentWeights weights(params.dims, WeightSource::kPacked, memory);
    weights.set(params);
    weights.prepare({0, 1, nullptr, false});
  }

  // See ForwardKernels.
  static void run(const Call& call, const Portion& portion) {
    ForwardLoop(call, portion, Carver<T>{call.params.frozen}, Carver<T>{call.params.scratch}).run();
  }

 private:
  static constexpr int kEarlyGates = Cells::kEarlyGates;

  struct RecurrentWeights {
    ForwardWeights<Isa, T, W, kEarlyGates> first;
    ForwardWeights<Isa, T, W, 1> second;

    RecurrentWeights(const Dims& dims, WeightSource source, Carver<T>& memory)
        : first({dims.hidden_size, dims.recurrent_size}, source, memory),
          second({has_second(dims) ? dims.recurrent_size : 0, dims.hidden_size}, source, memory) {}

    void set(const Params& params) {
      if constexpr (kNormalizes<Cell>) {
        first.set(params.w_hh, nullptr, nullptr, -1);
      } else {
        first.set(params.w_hh, params.b_ih, params.b_hh, Cell::kApartBias);
      }
      if constexpr (Cell::kLateGates > 0) {
        const int64_t row = kEarlyGates * params.dims.hidden_size;
        second.set(params.w_hh + row * params.dims.recurrent_size, params.b_ih ? params.b_ih + row : nullptr,
                   params.b_hh ? params.b_hh + row : nullptr, -1);
      } else {
        second.set(params.w_hr, params.b_hr, nullptr, -1);
      }
    }
    void prepare(const Member& member) const {
      first.prepare(member);
      second.prepare(member);
    }
  };

  static FASTRNN_INLINE bool has_second(const Dims& dims) {
    return kMayHaveSecond<Cell> && (Cell::kLateGates > 0 || dims.projected);
  }

  ForwardLoop(const Dims& dims, const Plan& plan, Carver<T>& frozen, Carver<T>& scratch)
      : dims_(dims),
        weights_(dims, plan.weights, plan.weights == WeightSource::kFrozen ? frozen : scratch),
        input_(Cell::kGates * dims.hidden_size, dims, plan, scratch) {
    if (has_second(dims) || kNormalizesCell<Cell>) operand_ = scratch.take(dims.batch * dims.hidden_size);
    if (kNormalizes<Cell>) product_ = scratch.take(dims.batch * Cell::kGates * dims.hidden_size);
    for (T*& state : state_) state = scratch.take(dims.batch * dims.recurrent_size + gaps<T>(plan));
    if (Cell::kHasCellState) cell_ = scratch.take(dims.batch * dims.hidden_size + gaps<T>(plan));
  }

  ForwardLoop(const Call& call, const Portion& portion, Carver<T>&& frozen, Carver<T>&& scratch)
      : ForwardLoop(call.params.dims, portion.plan, frozen, scratch) {
    p_ = &call.params;
    stretch_ = call.stretch;
    weights_.set(*p_);
    input_.set(call, portion);
    portion_ = &portion;
    rows_ = portion.rows(dims_.batch);
    const int64_t gap = portion.gaps_before<T>();
    for (T*& state : state_) state += gap;
    if (Cell::kHasCellState) cell_ += gap;
  }

  void run() {
    if (stretch_.begin == 0) prepare();
    for (int64_t s = stretch_.begin; s < stretch_.end; ++s) {
      input_.begin_step(s);
      run_cell(s);
      if constexpr (kNormalizes<Cell>) {
        portion_->meet();
        run_rows(s);
      }
      if (has_second(dims_)) {
        portion_->meet();
        run_second(s);
      }
      if (!portion_->end_step(s)) return;
    }
    if constexpr (Cell::kHasCellState) {
      if (stretch_.end == p_->steps.steps) copy_values(p_->cell, cell_);
    }
  }

  // Of (B, H) values the member's part.
  void copy_values(T* to, const T* from) const {
    const Range mine = portion_->values(dims_.batch, dims_.hidden_size);
    for (int64_t k = mine.begin; k < mine.end; ++k) to[k] = from[k];
  }

  // Prepares the weights, each thread its share, and sets both states to hx: a row that joins late finds it in either,
  // and one that never runs has it as hy.
  void prepare() {
    weights_.prepare(portion_->member);
    input_.prepare(portion_->member);
    const Range fill = portion_->values(dims_.batch, dims_.recurrent_size);
    for (int64_t k = fill.begin; k < fill.end; ++k) state_[0][k] = state_[1][k] = p_->hy[k] = p_->hx[k];
    if constexpr (Cell::kHasCellState) copy_values(cell_, p_->cell);
    if constexpr (kExtended) prepare_extras(fill);
    portion_->member.barrier();
  }

  // The states that the first step starts from, where they are not hx and cx.
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
    if constexpr (Cell::kHasCellState) {
      const Range cells = portion_->values(dims_.batch, dims_.hidden_size);
      for (int64_t k = cells.begin; k < cells.end; ++k) {
        if (replaced(k / dims_.hidden_size)) cell_[k] = extras.reset_c[k];
      }
    }
  }

  FASTRNN_INLINE Range rows_of(int64_t s) const { return below(rows_, p_->steps.rows(s)); }
  FASTRNN_INLINE bool asks_ahead() const { return is_asked_ahead<T>(rows_, p_->channel_stride); }

  FASTRNN_INLINE Now at_step(int64_t s) const {
    const Steps& steps = p_->steps;
    T* const channels = input_.channels(s);
    return {*p_,
            dims_.hidden_size,
            dims_.recurrent_size,
            dims_.projected,
            rows_of(s),
            steps.offset(s),
            channels,
            steps.rows(s + 1),
            state_[s % 2],
            state_[(s + 1) % 2],
            cell_,
            operand_,
            p_->keep ? channels + (Cell::kChannels - Cell::kGates) * dims_.hidden_size : product_,
            p_->keep ? p_->channel_stride : Cell::kGates * dims_.hidden_size,
            !asks_ahead(),
            extras_at(s)};
  }

  FASTRNN_INLINE AtStep extras_at(int64_t s) const {
    if constexpr (kExtended) {
      return {*p_->extras, p_->steps, s, dims_, p_->hx, p_->output, p_->output_stride};
    } else {
      return {};
    }
  }

  // What the cells of step s read that no step before has brought into the cache.
  FASTRNN_INLINE void ask_for_step(int64_t s) const {
    ask_for(input_.channels(s), p_->channel_stride, rows_of(s), Cell::kGates * dims_.hidden_size);
  }

  void run_cell(int64_t s) {
    const Now now = at_step(s);
    if (!input_.is_mine() && asks_ahead() && portion_->has_whole_rows() && s + 1 < stretch_.end) ask_for_step(s + 1);
    const Operand<T> h{now.h_prev, now.recurrent, now.recurrent, 1, {0}};
    portion_->for_each_panels(weights_.first.count(), s, [&](const Range& panels) FASTRNN_INLINE_LAMBDA {
      const typename Cells::FinishCell finish{now};
      multiply_and_finish<kFinishedApart<Cell>>(weights_.first, panels, h, now.rows.begin, now.rows.end, finish);
    });
  }

  // Of a cell that normalises, whose sums have waited for those of the whole row.
  void run_rows(int64_t s) {
    const Now now = at_step(s);
    const Range mine = portion_->deal(now.rows);
    for (int64_t row = mine.begin; row < mine.end; ++row) {
      Cells::finish_row(now, row);
      if constexpr (kNormalizesCell<Cell>) Cells::finish_normalized_c(now, row);
    }
  }

  void run_second(int64_t s) {
    if constexpr (kMayHaveSecond<Cell>) {
      const Now now = at_step(s);
      const Operand<T> operand{now.operand, now.hidden, now.hidden, 1, {0}};
      portion_->for_each_panels(weights_.second.count(), s, [&](const Range& panels) {
        const typename Cells::FinishSecond finish{now};
        multiply_and_finish<kFinishedApart<Cell>>(weights_.second, panels, operand, now.rows.begin, now.rows.end,
                                                  finish);
      });
    }
  }

  const Params* p_ = nullptr;
  const Portion* portion_ = nullptr;
  Stretch stretch_{};
  Dims dims_;
  Range rows_{0, 0};
  RecurrentWeights weights_;
  InputProduct<Isa, T, W> input_;
  // (B, H) what the second product multiplies: this step's h before the projection, or r * h_{t-1}. Before that, c
  // until it is normalised.
  T* operand_ = nullptr;
  T* product_ = nullptr;  // (B, G*H), of a cell that normalises it, where it is not kept
  T* state_[2];           // (B, K) h_{t-1} and h_t, by the parity of s
  T* cell_ = nullptr;     // (B, H) c
};

}  // namespace fastrnn::cpu
