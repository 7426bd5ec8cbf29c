// The epilogues of backward's GEMMs: the cell's derivative for a batch row and a vector of units, and where its results
// are stored.
#pragma once

#include "../../params.h"
#include "extras.h"
#include "norm_rows.h"
#include "weights.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, bool kExtended>
struct BackwardCells {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Inner = InnerCell<Cell>;
  using CellStep = Step<V, Inner::kSavedValues>;
  using CellGrad = StepGrad<V, Inner::kSavedValues, Inner::kPerUnitWeights>;
  struct NoExtras {};
  using MaybeExtras = std::conditional_t<kExtended, StepExtras<Isa, T>, NoExtras>;

  // Everything the cells of a step read, copied to locals: the compiler must assume that a vector store may alias the
  // object's fields.
  struct StepContext {
    BackwardParams<T> p;
    int64_t hidden, recurrent;
    bool has_projection;
    int64_t rows, rows_before, rows_after;  // running at this step, the one before and the one after
    int64_t first, first_before;            // batch row 0's row in the data at this step and the one before
    T* grad_saved;                          // (B, C*H)
    T* grad_hidden;                         // (B, H), with layer normalisation: the gradient of h before a projection
    T* dc;                                  // (B, H): gradient of c_t through its normalisation
    T* candidate_c;                         // (B, H): c_t before zoneout
    bool prefetch;
    MaybeExtras extras;
  };

  static FASTRNN_INLINE bool projects(const StepContext& ctx) { return Cell::kProjects && ctx.has_projection; }

  struct RecurrentEpilogue {
    const StepContext& ctx;

    FASTRNN_INLINE bool prefetches() const { return ctx.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      if (row >= ctx.rows) return;
      if (ctx.p.grad_output)
        __builtin_prefetch(ctx.p.grad_output + (ctx.first + row) * ctx.p.grad_output_stride + unit);
      if (!projects(ctx)) prefetch_cell(ctx, row, unit);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      finish_recurrent(ctx, row, unit, lanes, S::load(sums));
    }
  };

  static FASTRNN_INLINE void finish_recurrent(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V dh) {
    const BackwardParams<T>& p = ctx.p;
    T* grad_h = p.grad_h + row * ctx.recurrent + unit;
    if constexpr (kExtended) {
      dh = pass_back_h(ctx, row, unit, lanes, dh);
    } else {
      if (Cell::kCarriesH || row >= ctx.rows_after) dh += S::load(grad_h, lanes);
    }
    if (row >= ctx.rows) {
      S::store(grad_h, dh, lanes);
      return;
    }
    const int64_t at = ctx.first + row;
    if (p.grad_output) dh += S::load(p.grad_output + at * p.grad_output_stride + unit, lanes);
    if constexpr (kExtended) {
      if (ctx.extras.extras.zones_h()) {
        S::store(grad_h, take_kept<V>(ctx.extras.kept_h(row, unit, lanes), dh), lanes);
      }
    }
    if (projects(ctx)) {
      if constexpr (Cell::kActivatesOutput) {
        const V output = S::load(p.output + at * p.output_stride + unit, lanes);
        dh = activate_backward<V>(ctx.extras.extras.output_activation, output, dh);
      }
      S::store(p.grad_projected + at * ctx.recurrent + unit, dh, lanes);
    } else if constexpr (Cell::kSecondPassGates > 0) {
      finish_second_pass(ctx, row, unit, lanes, dh);
    } else {
      finish_hidden(ctx, row, unit, lanes, dh);
    }
  }

  // From the gradient of h before a projection.
  static FASTRNN_INLINE void finish_hidden(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V dh) {
    if constexpr (kNormalizes<Cell>) {
      S::store(ctx.grad_hidden + row * ctx.hidden + unit, dh, lanes);
    } else {
      finish_cell(ctx, row, unit, lanes, dh);
    }
  }

  // The gradient arriving at h_t: from the next step, through w_hh and around it, or from hy.
  static FASTRNN_INLINE V pass_back_h(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V through_w_hh) {
    const StepExtras<Isa, T>& extras = ctx.extras;
    const ExtraGrads<T>& grads = *ctx.p.extra_grads;
    const T* carried = ctx.p.grad_h + row * ctx.recurrent + unit;
    if (row >= ctx.rows_after) return through_w_hh + S::load(carried, lanes);
    V dh = extras.masked(row, unit, lanes, through_w_hh);
    if (Cell::kCarriesH || extras.extras.zones_h()) dh += S::load(carried, lanes);
    return pass_back(grads.clip, extras.cut_after(row), grads.reset_h, row * ctx.recurrent + unit, lanes, dh);
  }

  // The share of a state's gradient that is passed on to the step before; after a cut it goes to the reset state
  // instead.
  static FASTRNN_INLINE V pass_back(T clip, Cut cut, T* reset, int64_t at, int lanes, V grad) {
    grad = Isa::at_most(Isa::at_least(grad, S::broadcast(-clip)), S::broadcast(clip));
    if (cut == kCutState) S::store(reset + at, S::load(reset + at, lanes) + grad, lanes);
    return cut == kNoCut ? grad : V{};
  }

  struct SecondEpilogue {
    const StepContext& ctx;

    FASTRNN_INLINE bool prefetches() const { return ctx.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const { prefetch_cell(ctx, row, unit); }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kSecondPassGates > 0) {
        finish_first_pass(ctx, row, unit, lanes, S::load(sums));
      } else {
        finish_hidden(ctx, row, unit, lanes, S::load(sums));
      }
    }
  };

  // For a cell with a second-pass gate: the gradients before the second GEMM, and after it.
  static FASTRNN_INLINE void finish_second_pass(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V dh) {
    const CellStep step = load_saved(ctx, row, unit, lanes);
    CellGrad grad;
    grad.h = dh;
    Cell::second_pass_backward(step, grad);
    T* saved = ctx.grad_saved + row * Cell::kSavedValues * ctx.hidden + unit;
    for (int c = 0; c < Cell::kSavedValues; ++c) {
      if (c != Cell::kReset) S::store(saved + c * ctx.hidden, grad.saved[c], lanes);
    }
    T* carried = ctx.p.grad_h + row * ctx.hidden + unit;
    if (ctx.extras.extras.zones_h()) grad.h += S::load(carried, lanes);
    S::store(carried, grad.h, lanes);
  }

  static FASTRNN_INLINE void finish_first_pass(const StepContext& ctx, int64_t row, int64_t unit, int lanes,
                                               V operand) {
    const CellStep step = load_saved(ctx, row, unit, lanes);
    CellGrad grad;
    Cell::first_pass_backward(ctx.extras.masked(row, unit, lanes, operand), step, grad);
    T* saved = ctx.grad_saved + row * Cell::kSavedValues * ctx.hidden + unit;
    S::store(saved + Cell::kReset * ctx.hidden, grad.saved[Cell::kReset], lanes);
    T* carried = ctx.p.grad_h + row * ctx.hidden + unit;
    S::store(carried, S::load(carried, lanes) + grad.h, lanes);
    S::store(ctx.p.operand + (ctx.first + row) * ctx.hidden + unit,
             ctx.extras.masked(row, unit, lanes, Cell::second_pass_operand(step)), lanes);
  }

  static FASTRNN_INLINE CellStep load_saved(const StepContext& ctx, int64_t row, int64_t unit, int lanes) {
    CellStep step;
    const T* saved = ctx.p.saved + (ctx.first + row) * Cell::kSavedValues * ctx.hidden + unit;
    for (int c = 0; c < Cell::kSavedValues; ++c) step.saved[c] = S::load(saved + c * ctx.hidden, lanes);
    step.h_prev = S::load(ctx.extras.previous_h(row) + unit, lanes);
    return step;
  }

  // Prefetches what finish_cell reads and writes and no step before has brought into the cache.
  static FASTRNN_INLINE void prefetch_cell(const StepContext& ctx, int64_t row, int64_t unit) {
    const BackwardParams<T>& p = ctx.p;
    const int64_t hidden = ctx.hidden, at = ctx.first + row;
    for (int c = 0; c < Cell::kSavedValues; ++c) {
      if (Cell::kReadsSaved) __builtin_prefetch(p.saved + (at * Cell::kSavedValues + c) * hidden + unit);
      __builtin_prefetch(ctx.grad_saved + (row * Cell::kSavedValues + c) * hidden + unit, 1);
    }
    if (Cell::kReadsH) __builtin_prefetch(p.output + at * p.output_stride + unit);
    if (row >= ctx.rows_before) return;
    const int64_t before = ctx.first_before + row;
    if (Cell::kReadsPreviousH) __builtin_prefetch(p.output + before * p.output_stride + unit);
    for (int k = 0; k < Cell::kCellStates; ++k) __builtin_prefetch(p.cells[k] + before * hidden + unit);
  }

  // The states before and after the row's step, the latter before zoneout.
  static FASTRNN_INLINE CellStep load_step(const StepContext& ctx, int64_t row, int64_t unit, int lanes) {
    const BackwardParams<T>& p = ctx.p;
    const int64_t hidden = ctx.hidden, at = ctx.first + row, before = ctx.first_before + row;
    const bool from_start = row >= ctx.rows_before;
    CellStep step;
    if constexpr (kExtended) step.activation = ctx.extras.extras.activation;
    if constexpr (Inner::kReadsSaved) {
      const T* saved = p.saved + (at * Cell::kSavedValues + kInnerSlot<Cell>)*hidden + unit;
      for (int c = 0; c < Inner::kSavedValues; ++c) step.saved[c] = S::load(saved + c * hidden, lanes);
    }
    if constexpr (Cell::kReadsH) {
      step.h = S::load(p.output + at * p.output_stride + unit, lanes);
      if constexpr (kExtended) step.h = ctx.extras.candidate_h(row, unit, lanes, step.h);
    }
    if constexpr (Cell::kReadsPreviousH) {
      const T* h_prev = from_start ? p.hx + row * hidden : p.output + before * p.output_stride;
      if constexpr (kExtended) h_prev = ctx.extras.previous_h(row);
      step.h_prev = S::load(h_prev + unit, lanes);
    }
    for (int k = 0; k < Cell::kCellStates; ++k) {
      const T* cell_prev = from_start ? p.cx[k] + row * hidden : p.cells[k] + before * hidden;
      if constexpr (kExtended) {
        if (ctx.extras.cut_before(row) == kCutState) cell_prev = ctx.extras.extras.reset_cell[k] + row * hidden;
      }
      step.cell_prev[k] = S::load(cell_prev + unit, lanes);
      if constexpr (Cell::kReadsCells) step.cell[k] = S::load(p.cells[k] + at * hidden + unit, lanes);
    }
    if constexpr (kExtended && Cell::kReadsCells && Cell::kCellStates > 0) {
      if (ctx.extras.extras.zones_any_cell(Cell::kCellStates)) Inner::candidates(step);
    }
    return step;
  }

  // The gradient of a cell state without the contribution of h_t; kept: the share that zoneout passes straight through.
  static FASTRNN_INLINE V load_grad_cell(const StepContext& ctx, int state, int64_t row, int64_t unit, int lanes,
                                         V& kept) {
    const BackwardParams<T>& p = ctx.p;
    V grad = S::load(p.grad_cell[state] + row * ctx.hidden + unit, lanes);
    if constexpr (kExtended) {
      const ExtraGrads<T>& grads = *p.extra_grads;
      const T* of_step = grads.cells[state];
      if (of_step) grad += S::load(of_step + (ctx.first + row) * grads.cells_stride + unit, lanes);
      if (ctx.extras.extras.zones_cell(state)) {
        kept = take_kept<V>(ctx.extras.kept_cell(state, row, unit, lanes), grad);
      }
    }
    return grad;
  }

  static FASTRNN_INLINE void finish_cell(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V dh) {
    const BackwardParams<T>& p = ctx.p;
    const int64_t hidden = ctx.hidden, state = row * hidden + unit;
    const PerUnitWeights<Isa, Inner, T> per_unit_weights(p.per_unit_weights, hidden, unit, lanes);
    CellStep step = load_step(ctx, row, unit, lanes);
    step.per_unit_weights = per_unit_weights.values;
    CellGrad grad;
    grad.h = dh;
    V kept_grad[kMaxCellStates] = {};  // what zoneout passes straight through
    for (int k = 0; k < Cell::kCellStates; ++k) {
      grad.cell[k] = load_grad_cell(ctx, k, row, unit, lanes, kept_grad[k]);
    }
    T* saved = ctx.grad_saved + (row * Cell::kSavedValues + kInnerSlot<Cell>)*hidden + unit;
    if constexpr (kNormalizesCell<Cell>) {
      grad.saved[Cell::kOutput] = S::load(saved + Cell::kOutput * hidden, lanes);
      grad.cell[Cell::kC] += S::load(ctx.dc + state, lanes);
      Inner::cell_backward(step, grad);
    } else {
      if constexpr (Cell::kProjects) {
        if (projects(ctx)) S::store(p.operand + (ctx.first + row) * hidden + unit, Inner::hidden(step), lanes);
      }
      Inner::backward(step, grad);
    }
    for (int c = 0; c < Inner::kSavedValues; ++c) S::store(saved + c * hidden, grad.saved[c], lanes);
    if constexpr (Inner::kPerUnitWeights > 0) {
      T* sums = p.grad_per_unit_weights + row * Cell::kPerUnitWeights * hidden + unit;
      for (int w = 0; w < Inner::kPerUnitWeights; ++w, sums += hidden) {
        S::store(sums, S::load(sums, lanes) + grad.per_unit_weights[w], lanes);
      }
    }
    if constexpr (kExtended) {
      const StepExtras<Isa, T>& extras = ctx.extras;
      const ExtraGrads<T>& grads = *p.extra_grads;
      if (Cell::kCarriesH && extras.extras.zones_h()) grad.h += S::load(p.grad_h + state, lanes);
      for (int k = 0; k < Cell::kCellStates; ++k) {
        grad.cell[k] = pass_back(grads.clip, extras.cut_before(row), grads.reset_cell[k], state, lanes,
                                 grad.cell[k] + kept_grad[k]);
      }
    }
    if constexpr (Cell::kCarriesH) S::store(p.grad_h + state, grad.h, lanes);
    for (int k = 0; k < Cell::kCellStates; ++k) S::store(p.grad_cell[k] + state, grad.cell[k], lanes);
  }

  static FASTRNN_INLINE void finish_row(const StepContext& ctx, int64_t row) {
    const int64_t hidden = ctx.hidden;
    if constexpr (kNormalizesCell<Cell>) finish_hidden_row(ctx, row);
    for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      finish_cell(ctx, row, unit, lanes, S::load(ctx.grad_hidden + row * hidden + unit, lanes));
    });
    finish_product_row(ctx, row, 0, Cell::kInputGain, [](int gate) { return gate; });
    finish_product_row(ctx, row, Cell::kProduct, Cell::kGain, [](int gate) { return Inner::recurrent_slot(gate); });
  }

  static FASTRNN_INLINE void finish_hidden_row(const StepContext& ctx, int64_t row) {
    const BackwardParams<T>& p = ctx.p;
    const int64_t hidden = ctx.hidden, at = ctx.first + row, state = row * hidden;
    const int64_t output_slot = (Cell::kInner + Cell::kOutput) * hidden;
    const T *c = p.cells[Cell::kC] + at * hidden, *weights = p.per_unit_weights;
    if (ctx.extras.extras.zones_cell(Cell::kC)) {
      for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
        S::store(ctx.candidate_c + state + unit, load_step(ctx, row, unit, lanes).cell[Cell::kC], lanes);
      });
      c = ctx.candidate_c + state;
    }
    T* grad_weights = p.grad_per_unit_weights + row * Cell::kPerUnitWeights * hidden;
    hidden_backward<Isa, T>(
        {hidden, c, p.saved + at * Cell::kSavedValues * hidden + output_slot, weights + Cell::kCellGain * hidden,
         weights + Cell::kCellBias * hidden, ctx.grad_hidden + state, grad_weights + Cell::kCellGain * hidden,
         grad_weights + Cell::kCellBias * hidden, ctx.grad_saved + row * Cell::kSavedValues * hidden + output_slot,
         ctx.dc + state, projects(ctx) ? p.operand + at * hidden : nullptr});
  }

  // Layer normalisation of one of the row's two GEMM results, saved from slot `product` on; source(gate) is the inner
  // cell's slot with the gradient of the normalised value.
  template <class Source>
  static FASTRNN_INLINE void finish_product_row(const StepContext& ctx, int64_t row, int product, int gain,
                                                const Source& source) {
    const BackwardParams<T>& p = ctx.p;
    const int64_t hidden = ctx.hidden;
    T* grad_saved = ctx.grad_saved + row * Cell::kSavedValues * hidden;
    ProductRow<T> args{hidden,
                       Cell::kGates,
                       p.saved + ((ctx.first + row) * Cell::kSavedValues + product) * hidden,
                       p.per_unit_weights + gain * hidden,
                       {},
                       p.grad_per_unit_weights + (row * Cell::kPerUnitWeights + gain) * hidden,
                       grad_saved + product * hidden};
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      args.grads[gate] = grad_saved + (Cell::kInner + source(gate)) * hidden;
    }
    product_backward<Isa, T>(args);
  }
};

}  // namespace fastrnn::cpu
