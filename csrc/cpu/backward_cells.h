// What the time loop makes of a step's sums, backward: the derivative of a batch row and a vector of units, and where
// its results go.
#pragma once

#include "../params.h"
#include "extras.h"
#include "norm_rows.h"
#include "weights.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, bool kExtended>
struct BackwardCells {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Inner = InnerCell<Cell>;
  using CellStep = Step<V, Inner::kChannels>;
  using CellGrad = StepGrad<V, Inner::kChannels>;
  struct NoExtras {};
  using AtStep = std::conditional_t<kExtended, StepExtras<Isa, T>, NoExtras>;

  // What the cells of a step read, held in locals: as far as the compiler knows, storing a vector may change a member.
  struct Now {
    BackwardParams<T> p;
    int64_t hidden, recurrent;
    bool has_projection;
    int64_t rows, rows_before, rows_after;  // that run at this step, the one before and the one after
    int64_t first, first_before;            // rows of the data that batch row 0 has at this step and the one before
    T* grad_channels;                       // (B, C*H)
    T* grad_hidden;                         // (B, H), of a cell that normalises: the gradient of h before a projection
    T* dc;                                  // (B, H): what of the gradient of c_t comes from its normalisation
    T* candidate_c;                         // (B, H): c_t before anything is done to it
    bool prefetch;
    AtStep extras;
  };

  static FASTRNN_INLINE bool projects(const Now& now) { return Cell::kProjects && now.has_projection; }

  struct FinishRecurrent {
    const Now& now;

    FASTRNN_INLINE bool prefetches() const { return now.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      if (row >= now.rows) return;
      if (now.p.grad_output)
        __builtin_prefetch(now.p.grad_output + (now.first + row) * now.p.grad_output_stride + unit);
      if (!projects(now)) prefetch_cell(now, row, unit);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      finish_recurrent(now, row, unit, lanes, S::load(sums));
    }
  };

  static FASTRNN_INLINE void finish_recurrent(const Now& now, int64_t row, int64_t unit, int lanes, V dh) {
    const BackwardParams<T>& p = now.p;
    T* grad_h = p.grad_h + row * now.recurrent + unit;
    if constexpr (kExtended) {
      dh = pass_back_h(now, row, unit, lanes, dh);
    } else {
      if (Cell::kCarriesH || row >= now.rows_after) dh += S::load(grad_h, lanes);
    }
    if (row >= now.rows) {
      S::store(grad_h, dh, lanes);
      return;
    }
    const int64_t at = now.first + row;
    if (p.grad_output) dh += S::load(p.grad_output + at * p.grad_output_stride + unit, lanes);
    if constexpr (kExtended) {
      if (now.extras.extras.zones_h()) {
        const V kept = now.extras.kept_h(row, unit, lanes) * dh;
        S::store(grad_h, kept, lanes);
        dh -= kept;
      }
    }
    if (projects(now)) {
      if constexpr (Cell::kActivatesOutput) {
        const V output = S::load(p.output + at * p.output_stride + unit, lanes);
        dh = activate_backward<V>(now.extras.extras.output_activation, output, dh);
      }
      S::store(p.grad_projected + at * now.recurrent + unit, dh, lanes);
    } else if constexpr (Cell::kLateGates > 0) {
      finish_late(now, row, unit, lanes, dh);
    } else {
      finish_hidden(now, row, unit, lanes, dh);
    }
  }

  // Given the gradient of h before a projection.
  static FASTRNN_INLINE void finish_hidden(const Now& now, int64_t row, int64_t unit, int lanes, V dh) {
    if constexpr (kNormalizes<Cell>) {
      S::store(now.grad_hidden + row * now.hidden + unit, dh, lanes);
    } else {
      finish_cell(now, row, unit, lanes, dh);
    }
  }

  // What arrives at h_t: from the next step, through w_hh and past it, or from hy.
  static FASTRNN_INLINE V pass_back_h(const Now& now, int64_t row, int64_t unit, int lanes, V through_w_hh) {
    const StepExtras<Isa, T>& extras = now.extras;
    const ExtraGrads<T>& grads = *now.p.extra_grads;
    const T* carried = now.p.grad_h + row * now.recurrent + unit;
    if (row >= now.rows_after) return through_w_hh + S::load(carried, lanes);
    V dh = extras.masked(row, unit, lanes, through_w_hh);
    if (Cell::kCarriesH || extras.extras.zones_h()) dh += S::load(carried, lanes);
    return pass_back(grads.clip, extras.cut_after(row), grads.reset_h, row * now.recurrent + unit, lanes, dh);
  }

  // What goes on of a state's gradient to the step before; behind a cut it is the reset state's.
  static FASTRNN_INLINE V pass_back(T clip, Cut cut, T* reset, int64_t at, int lanes, V grad) {
    grad = Isa::at_most(Isa::at_least(grad, S::broadcast(-clip)), S::broadcast(clip));
    if (cut == kCutState) S::store(reset + at, S::load(reset + at, lanes) + grad, lanes);
    return cut == kNoCut ? grad : V{};
  }

  struct FinishSecond {
    const Now& now;

    FASTRNN_INLINE bool prefetches() const { return now.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const { prefetch_cell(now, row, unit); }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kLateGates > 0) {
        finish_early(now, row, unit, lanes, S::load(sums));
      } else {
        finish_hidden(now, row, unit, lanes, S::load(sums));
      }
    }
  };

  // Of a cell with a late gate: the gradients before the second product, and after it.
  static FASTRNN_INLINE void finish_late(const Now& now, int64_t row, int64_t unit, int lanes, V dh) {
    const CellStep step = load_channels(now, row, unit, lanes);
    CellGrad grad;
    grad.h = dh;
    Cell::late_backward(step, grad);
    T* channels = now.grad_channels + row * Cell::kChannels * now.hidden + unit;
    for (int c = 0; c < Cell::kChannels; ++c) {
      if (c != Cell::kReset) S::store(channels + c * now.hidden, grad.channels[c], lanes);
    }
    T* carried = now.p.grad_h + row * now.hidden + unit;
    if (now.extras.extras.zones_h()) grad.h += S::load(carried, lanes);
    S::store(carried, grad.h, lanes);
  }

  static FASTRNN_INLINE void finish_early(const Now& now, int64_t row, int64_t unit, int lanes, V operand) {
    const CellStep step = load_channels(now, row, unit, lanes);
    CellGrad grad;
    Cell::early_backward(now.extras.masked(row, unit, lanes, operand), step, grad);
    T* channels = now.grad_channels + row * Cell::kChannels * now.hidden + unit;
    S::store(channels + Cell::kReset * now.hidden, grad.channels[Cell::kReset], lanes);
    T* carried = now.p.grad_h + row * now.hidden + unit;
    S::store(carried, S::load(carried, lanes) + grad.h, lanes);
    S::store(now.p.operand + (now.first + row) * now.hidden + unit,
             now.extras.masked(row, unit, lanes, Cell::late_operand(step)), lanes);
  }

  static FASTRNN_INLINE CellStep load_channels(const Now& now, int64_t row, int64_t unit, int lanes) {
    CellStep step;
    const T* channels = now.p.channels + (now.first + row) * Cell::kChannels * now.hidden + unit;
    for (int c = 0; c < Cell::kChannels; ++c) step.channels[c] = S::load(channels + c * now.hidden, lanes);
    step.h_prev = S::load(now.extras.previous_h(row) + unit, lanes);
    return step;
  }

  // What finish_cell reads and writes that no step before has brought into the cache.
  static FASTRNN_INLINE void prefetch_cell(const Now& now, int64_t row, int64_t unit) {
    const BackwardParams<T>& p = now.p;
    const int64_t hidden = now.hidden, at = now.first + row;
    for (int c = 0; c < Cell::kChannels; ++c) {
      if (Cell::kKeepsChannels) __builtin_prefetch(p.channels + (at * Cell::kChannels + c) * hidden + unit);
      __builtin_prefetch(now.grad_channels + (row * Cell::kChannels + c) * hidden + unit, 1);
    }
    if (Cell::kReadsH) __builtin_prefetch(p.output + at * p.output_stride + unit);
    if (row >= now.rows_before) return;
    const int64_t before = now.first_before + row;
    if (Cell::kReadsPreviousH) __builtin_prefetch(p.output + before * p.output_stride + unit);
    if (Cell::kHasCellState) __builtin_prefetch(p.cells + before * hidden + unit);
  }

  // What the row's step started from and left behind. c is what a zoneout made of it.
  static FASTRNN_INLINE CellStep load_step(const Now& now, int64_t row, int64_t unit, int lanes) {
    const BackwardParams<T>& p = now.p;
    const int64_t hidden = now.hidden, at = now.first + row, before = now.first_before + row;
    const bool from_start = row >= now.rows_before;
    CellStep step;
    if constexpr (kExtended) step.activation = now.extras.extras.activation;
    if constexpr (Inner::kKeepsChannels) {
      const T* channels = p.channels + (at * Cell::kChannels + kInnerChannel<Cell>)*hidden + unit;
      for (int c = 0; c < Inner::kChannels; ++c) step.channels[c] = S::load(channels + c * hidden, lanes);
    }
    if constexpr (Cell::kReadsH) {
      step.h = S::load(p.output + at * p.output_stride + unit, lanes);
      if constexpr (kExtended) step.h = now.extras.candidate_h(row, unit, lanes, step.h);
    }
    if constexpr (Cell::kReadsPreviousH) {
      const T* h_prev = from_start ? p.hx + row * hidden : p.output + before * p.output_stride;
      if constexpr (kExtended) h_prev = now.extras.previous_h(row);
      step.h_prev = S::load(h_prev + unit, lanes);
    }
    if constexpr (Cell::kHasCellState) {
      const T* c_prev = from_start ? p.cx + row * hidden : p.cells + before * hidden;
      if constexpr (kExtended) {
        if (now.extras.cut_before(row) == kCutState) c_prev = now.extras.extras.reset_c + row * hidden;
      }
      step.c_prev = S::load(c_prev + unit, lanes);
      step.c = S::load(p.cells + at * hidden + unit, lanes);
      if constexpr (kExtended) {
        if (now.extras.extras.zones_c()) step.c = Inner::candidate_c(step);
      }
    }
    return step;
  }

  // dc_t but for what comes from h_t, and what zoneout keeps of it.
  static FASTRNN_INLINE V load_grad_c(const Now& now, int64_t row, int64_t unit, int lanes, V& kept) {
    const BackwardParams<T>& p = now.p;
    V grad = S::load(p.grad_c + row * now.hidden + unit, lanes);
    if constexpr (kExtended) {
      const ExtraGrads<T>& grads = *p.extra_grads;
      if (grads.cells) grad += S::load(grads.cells + (now.first + row) * grads.cells_stride + unit, lanes);
      if (now.extras.extras.zones_c()) {
        kept = now.extras.kept_c(row, unit, lanes) * grad;
        grad -= kept;
      }
    }
    return grad;
  }

  static FASTRNN_INLINE void finish_cell(const Now& now, int64_t row, int64_t unit, int lanes, V dh) {
    const BackwardParams<T>& p = now.p;
    const int64_t hidden = now.hidden, state = row * hidden + unit;
    const UnitWeights<Isa, Inner, T> unit_weights(p.unit_weights, hidden, unit, lanes);
    CellStep step = load_step(now, row, unit, lanes);
    step.unit_weights = unit_weights.values;
    CellGrad grad;
    grad.h = dh;
    V kept_grad_c{};  // of what zoneout keeps of c
    if constexpr (Cell::kHasCellState) grad.c = load_grad_c(now, row, unit, lanes, kept_grad_c);
    T* channels = now.grad_channels + (row * Cell::kChannels + kInnerChannel<Cell>)*hidden + unit;
    if constexpr (kNormalizesCell<Cell>) {
      grad.channels[Cell::kOutput] = S::load(channels + Cell::kOutput * hidden, lanes);
      grad.c += S::load(now.dc + state, lanes);
      Inner::cell_backward(step, grad);
    } else {
      if constexpr (Cell::kProjects) {
        if (projects(now)) S::store(p.operand + (now.first + row) * hidden + unit, Inner::hidden(step), lanes);
      }
      Inner::backward(step, grad);
    }
    for (int c = 0; c < Inner::kChannels; ++c) S::store(channels + c * hidden, grad.channels[c], lanes);
    if constexpr (Inner::kUnitWeights > 0) {
      T* sums = p.grad_unit_weights + row * Cell::kUnitWeights * hidden + unit;
      for (int w = 0; w < Inner::kUnitWeights; ++w, sums += hidden) {
        S::store(sums, S::load(sums, lanes) + Inner::unit_weight_grad(w, step, grad), lanes);
      }
    }
    if constexpr (kExtended) {
      const StepExtras<Isa, T>& extras = now.extras;
      const ExtraGrads<T>& grads = *p.extra_grads;
      if (Cell::kCarriesH && extras.extras.zones_h()) grad.h += S::load(p.grad_h + state, lanes);
      if constexpr (Cell::kHasCellState) {
        grad.c = pass_back(grads.clip, extras.cut_before(row), grads.reset_c, state, lanes, grad.c + kept_grad_c);
      }
    }
    if constexpr (Cell::kCarriesH) S::store(p.grad_h + state, grad.h, lanes);
    if constexpr (Cell::kHasCellState) S::store(p.grad_c + state, grad.c, lanes);
  }

  static FASTRNN_INLINE void finish_row(const Now& now, int64_t row) {
    const int64_t hidden = now.hidden;
    if constexpr (kNormalizesCell<Cell>) finish_hidden_row(now, row);
    for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      finish_cell(now, row, unit, lanes, S::load(now.grad_hidden + row * hidden + unit, lanes));
    });
    finish_product_row(now, row, 0, Cell::kInputGain, [](int gate) { return gate; });
    finish_product_row(now, row, Cell::kProduct, Cell::kGain, [](int gate) { return Inner::recurrent_channel(gate); });
  }

  static FASTRNN_INLINE void finish_hidden_row(const Now& now, int64_t row) {
    const BackwardParams<T>& p = now.p;
    const int64_t hidden = now.hidden, at = now.first + row, state = row * hidden;
    const int64_t output_channel = (Cell::kInner + Cell::kOutput) * hidden;
    const T *c = p.cells + at * hidden, *weights = p.unit_weights;
    if (now.extras.extras.zones_c()) {
      for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
        S::store(now.candidate_c + state + unit, load_step(now, row, unit, lanes).c, lanes);
      });
      c = now.candidate_c + state;
    }
    T* grad_weights = p.grad_unit_weights + row * Cell::kUnitWeights * hidden;
    hidden_backward<Isa, T>(
        {hidden, c, p.channels + at * Cell::kChannels * hidden + output_channel, weights + Cell::kCellGain * hidden,
         weights + Cell::kCellBias * hidden, now.grad_hidden + state, grad_weights + Cell::kCellGain * hidden,
         grad_weights + Cell::kCellBias * hidden, now.grad_channels + row * Cell::kChannels * hidden + output_channel,
         now.dc + state, projects(now) ? p.operand + at * hidden : nullptr});
  }

  // One of the row's two products, kept in the channels from `product` on; source(gate) is the channel of the cell
  // whose gradient is that of what it became.
  template <class Source>
  static FASTRNN_INLINE void finish_product_row(const Now& now, int64_t row, int product, int gain,
                                                const Source& source) {
    const BackwardParams<T>& p = now.p;
    const int64_t hidden = now.hidden;
    T* grad_channels = now.grad_channels + row * Cell::kChannels * hidden;
    ProductRow<T> args{hidden,
                       Cell::kGates,
                       p.channels + ((now.first + row) * Cell::kChannels + product) * hidden,
                       p.unit_weights + gain * hidden,
                       {},
                       p.grad_unit_weights + (row * Cell::kUnitWeights + gain) * hidden,
                       grad_channels + product * hidden};
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      args.grads[gate] = grad_channels + (Cell::kInner + source(gate)) * hidden;
    }
    product_backward<Isa, T>(args);
  }
};

}  // namespace fastrnn::cpu
