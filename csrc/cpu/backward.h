// The time loop, backward (BPTT): every step multiplies the next step's gate gradients by the packed w_hh, the other
// way, and takes the cell's derivative in the same tile. What all steps share (dw_ih, dw_hh, dx, db) is left to one
// large product over the gradients written here.
#pragma once

#include "../params.h"
#include "plan.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T>
class BackwardLoop {
  using S = Simd<Isa, T>;
  using V = typename S::V;

 public:
  static int64_t scratch_size(const Dims& dims) {
    Carver<T> count{nullptr};
    BackwardLoop(dims, count);
    return count.used;
  }

  // False if the user interrupted it.
  static bool run(const BackwardParams<T>& params, const Plan& plan) {
    struct Context {
      const BackwardParams<T>& params;
      const Plan& plan;
    } context{params, plan};
    return run_team(
        plan.threads,
        [](void* pointer, Member& member) {
          const Context& call = *static_cast<Context*>(pointer);
          const Portion portion{call.plan, member};
          BackwardLoop(call.params, portion, Carver<T>{call.params.scratch}).run();
        },
        &context);
  }

 private:
  BackwardLoop(const Dims& dims, Carver<T>& scratch) : dims_(dims) {
    w_hh_ = {nullptr, dims.recurrent_size, Cell::kGates * dims.hidden_size, 1};
    w_hh_.data = scratch.take(w_hh_.size());
    if (dims.projected) {
      w_hr_ = {nullptr, dims.hidden_size, dims.recurrent_size, 1};
      w_hr_.data = scratch.take(w_hr_.size());
    }
  }

  BackwardLoop(const BackwardParams<T>& params, const Portion& portion, Carver<T>&& scratch)
      : BackwardLoop(params.dims, scratch) {
    p_ = &params;
    portion_ = &portion;
    rows_ = portion.rows(params.dims.batch);
  }

  void run() {
    prepare();
    // s = -1 only hands the gradients of the first step's rows on to hx.
    for (int64_t s = p_->steps.steps - 1; s >= -1; --s) {
      run_recurrent(s);
      if (dims_.projected && s >= 0) {
        portion_->meet();
        run_projected(s);
      }
      if (!portion_->end_step(p_->steps.steps - 1 - s)) return;
    }
  }

  void prepare() {
    const Member& member = portion_->member;
    const Range pack = share(w_hh_.count(), member.index, member.count);
    for (int64_t i = pack.begin; i < pack.end; ++i) w_hh_.pack_columns(i, p_->w_hh);
    if (dims_.projected) {
      const Range pack_hr = share(w_hr_.count(), member.index, member.count);
      for (int64_t i = pack_hr.begin; i < pack_hr.end; ++i) w_hr_.pack_columns(i, p_->w_hr);
    }
    portion_->member.barrier();
  }

  // dh_t, from step s + 1 through w_hh and from the output, then the cell (or, with a projection, the way to it).
  // Rows that ran at s + 1 but not at s hand their gradient on to hx; rows that end at s bring that of hy.
  void run_recurrent(int64_t s) {
    const int64_t now = p_->steps.rows(s), after = p_->steps.rows(s + 1);
    const int64_t hidden = dims_.hidden_size;
    Operand<T> grads{p_->grad_channels + p_->steps.offset(s + 1) * Cell::kChannels * hidden,
                     Cell::kChannels * hidden,
                     hidden,
                     Cell::kGates,
                     {}};
    for (int gate = 0; gate < Cell::kGates; ++gate) grads.starts[gate] = Cell::recurrent_channel(gate) * hidden;
    Operand<T> nothing = grads;
    nothing.count = 0;

    const Range ran_after{smaller(rows_.begin, after), smaller(rows_.end, after)};
    const Range ends_here{larger(rows_.begin, after), larger(smaller(rows_.end, now), larger(rows_.begin, after))};
    const auto finish = [&](int64_t row, int64_t unit, int lanes, const T* sums) {
      finish_recurrent(s, row, unit, lanes, S::load(sums), row < now, row < after);
    };
    const Range panels = portion_->panels(w_hh_.count());
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      w_hh_.multiply(i, grads, ran_after.begin, ran_after.end, finish);
      w_hh_.multiply(i, nothing, ends_here.begin, ends_here.end, finish);
    }
  }

  FASTRNN_INLINE void finish_recurrent(int64_t s, int64_t row, int64_t unit, int lanes, V dh, bool runs_now,
                                       bool ran_after) {
    T* grad_h = p_->grad_h + row * dims_.recurrent_size + unit;
    if (Cell::kCarriesH || !ran_after) dh += S::load(grad_h, lanes);
    if (!runs_now) {
      S::store(grad_h, dh, lanes);
      return;
    }
    const int64_t at = p_->steps.offset(s) + row;
    if (p_->grad_output) dh += S::load(p_->grad_output + at * p_->grad_output_stride + unit, lanes);
    if (dims_.projected) {
      S::store(p_->grad_projected + at * dims_.recurrent_size + unit, dh, lanes);
    } else {
      finish_cell(s, row, unit, lanes, dh);
    }
  }

  void run_projected(int64_t s) {
    const int64_t now = p_->steps.rows(s), recurrent = dims_.recurrent_size;
    const Operand<T> grads{p_->grad_projected + p_->steps.offset(s) * recurrent, recurrent, recurrent, 1, {0}};
    const Range panels = portion_->panels(w_hr_.count());
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      w_hr_.multiply(i, grads, smaller(rows_.begin, now), smaller(rows_.end, now),
                     [&](int64_t row, int64_t unit, int lanes, const T* sums) {
                       finish_cell(s, row, unit, lanes, S::load(sums));
                     });
    }
  }

  FASTRNN_INLINE void finish_cell(int64_t s, int64_t row, int64_t unit, int lanes, V dh) {
    const int64_t hidden = dims_.hidden_size;
    const int64_t at = p_->steps.offset(s) + row;
    const bool from_start = row >= p_->steps.rows(s - 1);
    const int64_t before = p_->steps.offset(s - 1) + row;
    Step<V, Cell::kChannels> step;
    StepGrad<V, Cell::kChannels> grad;
    grad.h = dh;
    if constexpr (Cell::kKeepsChannels) {
      const T* channels = p_->channels + at * Cell::kChannels * hidden + unit;
      for (int c = 0; c < Cell::kChannels; ++c) step.channels[c] = S::load(channels + c * hidden, lanes);
    }
    if constexpr (Cell::kReadsH) step.h = S::load(p_->output + at * p_->output_stride + unit, lanes);
    if constexpr (Cell::kReadsPreviousH) {
      const T* h_prev = from_start ? p_->hx + row * hidden : p_->output + before * p_->output_stride;
      step.h_prev = S::load(h_prev + unit, lanes);
    }
    if constexpr (Cell::kHasCellState) {
      const T* c_prev = from_start ? p_->cx + row * hidden : p_->cells + before * hidden;
      step.c_prev = S::load(c_prev + unit, lanes);
      step.c = S::load(p_->cells + at * hidden + unit, lanes);
      grad.c = S::load(p_->grad_c + row * hidden + unit, lanes);
      if (dims_.projected) S::store(p_->hidden + at * hidden + unit, Cell::hidden(step), lanes);
    }
    Cell::backward(step, grad);
    T* channels = p_->grad_channels + at * Cell::kChannels * hidden + unit;
    for (int c = 0; c < Cell::kChannels; ++c) S::store(channels + c * hidden, grad.channels[c], lanes);
    if constexpr (Cell::kCarriesH) S::store(p_->grad_h + row * hidden + unit, grad.h, lanes);
    if constexpr (Cell::kHasCellState) S::store(p_->grad_c + row * hidden + unit, grad.c, lanes);
  }

  const BackwardParams<T>* p_ = nullptr;
  const Portion* portion_ = nullptr;
  Dims dims_;
  Range rows_{0, 0};
  Panels<Isa, T> w_hh_{};
  Panels<Isa, T> w_hr_{};
};

}  // namespace fastrnn::cpu
