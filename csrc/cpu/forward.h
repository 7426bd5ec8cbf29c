// The time loop, forward: every step multiplies h_{t-1} by the packed w_hh and finishes the cell in the same tile.
#pragma once

#include "../params.h"
#include "plan.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T>
class ForwardLoop {
  using S = Simd<Isa, T>;
  using V = typename S::V;

 public:
  static int64_t scratch_size(const Dims& dims) {
    Carver<T> count{nullptr};
    ForwardLoop(dims, count);
    return count.used;
  }

  // False if the user interrupted it.
  static bool run(const ForwardParams<T>& params, const Plan& plan) {
    struct Context {
      const ForwardParams<T>& params;
      const Plan& plan;
    } context{params, plan};
    return run_team(
        plan.threads,
        [](void* pointer, Member& member) {
          const Context& call = *static_cast<Context*>(pointer);
          const Portion portion{call.plan, member};
          ForwardLoop(call.params, portion, Carver<T>{call.params.scratch}).run();
        },
        &context);
  }

 private:
  ForwardLoop(const Dims& dims, Carver<T>& scratch) : dims_(dims) {
    w_hh_ = {nullptr, dims.hidden_size, dims.recurrent_size, Cell::kGates};
    w_hh_.data = scratch.take(w_hh_.size());
    if (dims.projected) {
      w_hr_ = {nullptr, dims.recurrent_size, dims.hidden_size, 1};
      w_hr_.data = scratch.take(w_hr_.size());
      unprojected_ = scratch.take(dims.batch * dims.hidden_size);
    }
    for (T*& state : state_) state = scratch.take(dims.batch * dims.recurrent_size);
  }

  ForwardLoop(const ForwardParams<T>& params, const Portion& portion, Carver<T>&& scratch)
      : ForwardLoop(params.dims, scratch) {
    p_ = &params;
    portion_ = &portion;
    rows_ = portion.rows(params.dims.batch);
  }

  void run() {
    prepare();
    for (int64_t s = 0; s < p_->steps.steps; ++s) {
      run_cell(s);
      if (dims_.projected) {
        portion_->meet();
        project(s);
      }
      if (!portion_->end_step(s)) return;
    }
  }

  // Packs the weights, each thread its share, and sets both states to hx: a row that joins late finds it in either,
  // and one that never runs has it as hy.
  void prepare() {
    const Member& member = portion_->member;
    const Range pack = share(w_hh_.count(), member.index, member.count);
    for (int64_t i = pack.begin; i < pack.end; ++i) {
      w_hh_.pack_rows(i, p_->w_hh, p_->b_ih, p_->b_hh, Cell::kApartBias);
    }
    if (dims_.projected) {
      const Range pack_hr = share(w_hr_.count(), member.index, member.count);
      for (int64_t i = pack_hr.begin; i < pack_hr.end; ++i) w_hr_.pack_rows(i, p_->w_hr, nullptr, nullptr, -1);
    }
    const Range fill = share(dims_.batch * dims_.recurrent_size, member.index, member.count);
    for (int64_t k = fill.begin; k < fill.end; ++k) state_[0][k] = state_[1][k] = p_->hy[k] = p_->hx[k];
    portion_->member.barrier();
  }

  Range active_rows(int64_t s) const {
    return {smaller(rows_.begin, p_->steps.rows(s)), smaller(rows_.end, p_->steps.rows(s))};
  }

  void run_cell(int64_t s) {
    const Range rows = active_rows(s);
    const Range panels = portion_->panels(w_hh_.count());
    const Operand<T> h{state_[s % 2], dims_.recurrent_size, dims_.recurrent_size, 1, {0}};
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      w_hh_.multiply(i, h, rows.begin, rows.end, [&](int64_t row, int64_t unit, int lanes, const T* sums) {
        finish_cell(s, row, unit, lanes, sums);
      });
    }
  }

  FASTRNN_INLINE void finish_cell(int64_t s, int64_t row, int64_t unit, int lanes, const T* sums) {
    const int64_t hidden = dims_.hidden_size;
    const int64_t at = p_->steps.offset(s) + row;
    T* channels = p_->channels + at * p_->channel_stride + unit;
    V x[Cell::kGates], r[Cell::kGates];
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      x[gate] = S::load(channels + gate * hidden, lanes);
      r[gate] = S::load(sums + gate * S::kLanes);
      if (gate == Cell::kApartBias && p_->b_ih) x[gate] += S::load(p_->b_ih + gate * hidden + unit, lanes);
    }
    Step<V, Cell::kChannels> step;
    if constexpr (Cell::kReadsPreviousH) step.h_prev = S::load(state_[s % 2] + row * hidden + unit, lanes);
    if constexpr (Cell::kHasCellState) step.c_prev = S::load(p_->cell + row * hidden + unit, lanes);
    Cell::forward(x, r, step);
    if (Cell::kKeepsChannels && p_->keep) {
      for (int c = 0; c < Cell::kChannels; ++c) S::store(channels + c * hidden, step.channels[c], lanes);
    }
    if constexpr (Cell::kHasCellState) {
      S::store(p_->cell + row * hidden + unit, step.c, lanes);
      if (p_->keep) S::store(p_->cells + at * hidden + unit, step.c, lanes);
    }
    if (dims_.projected) {
      S::store(unprojected_ + row * hidden + unit, step.h, lanes);
    } else {
      finish_h(s, row, unit, lanes, step.h);
    }
  }

  void project(int64_t s) {
    const Range rows = active_rows(s);
    const Range panels = portion_->panels(w_hr_.count());
    const Operand<T> h{unprojected_, dims_.hidden_size, dims_.hidden_size, 1, {0}};
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      w_hr_.multiply(i, h, rows.begin, rows.end, [&](int64_t row, int64_t unit, int lanes, const T* sums) {
        finish_h(s, row, unit, lanes, S::load(sums));
      });
    }
  }

  FASTRNN_INLINE void finish_h(int64_t s, int64_t row, int64_t unit, int lanes, V h) {
    const int64_t at = row * dims_.recurrent_size + unit;
    S::store(p_->output + (p_->steps.offset(s) + row) * p_->output_stride + unit, h, lanes);
    if (row < p_->steps.rows(s + 1)) {
      S::store(state_[(s + 1) % 2] + at, h, lanes);
    } else {
      S::store(p_->hy + at, h, lanes);
    }
  }

  const ForwardParams<T>* p_ = nullptr;
  const Portion* portion_ = nullptr;
  Dims dims_;
  Range rows_{0, 0};
  Panels<Isa, T> w_hh_{};
  Panels<Isa, T> w_hr_{};
  T* unprojected_ = nullptr;  // (B, H) this step's h before the projection
  T* state_[2];               // (B, K) h_{t-1} and h_t, by the parity of s
};

}  // namespace fastrnn::cpu
