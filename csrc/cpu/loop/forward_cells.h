// The epilogues of forward's GEMMs: the cell for a batch row and a vector of units, and where its results are stored.
#pragma once

#include "../../params.h"
#include "extras.h"
#include "norm_rows.h"
#include "weights.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, class W, bool kExtended>
struct ForwardCells {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Inner = InnerCell<Cell>;
  using CellStep = Step<V, Inner::kSavedValues>;
  using Params = ForwardParams<T, T, W>;
  struct NoExtras {};
  using MaybeExtras = std::conditional_t<kExtended, StepExtras<Isa, T>, NoExtras>;
  // Gates of the first GEMM of a step. The second GEMM is the second-pass gate's, or the projection.
  static constexpr int kFirstPassGates = kRecurrentGates<Cell>;
  static_assert(Cell::kSecondPassGates <= 1);

  // Everything the cells of a step read, copied to locals: the compiler must assume that a vector store may alias the
  // object's fields.
  struct StepContext {
    Params p;
    int64_t hidden, recurrent;
    bool has_projection;
    Range rows;           // run by the worker
    int64_t first;        // batch row 0's row in the data
    T* saved;             // (B, saved_stride)
    int64_t rows_after;   // that also run at the next step
    const T* h_prev;      // (B, K)
    T* h;                 // (B, K)
    CellStates<T*> cell;  // (B, H): before the step, then after it
    T* operand;           // (B, H)
    T* product;           // (B, product_stride): W_hh h, with layer normalisation
    int64_t product_stride;
    bool prefetch;
    MaybeExtras extras;
  };

  static FASTRNN_INLINE bool projects(const StepContext& ctx) { return Cell::kProjects && ctx.has_projection; }

  struct CellEpilogue {
    const StepContext& ctx;

    FASTRNN_INLINE bool prefetches() const { return ctx.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      const Params& p = ctx.p;
      const int64_t at = ctx.first + row;
      for (int gate = 0; gate < Cell::kGates; ++gate) {
        __builtin_prefetch(ctx.saved + row * p.saved_stride + gate * ctx.hidden + unit);
      }
      for (int k = 0; p.keep && k < Cell::kCellStates; ++k) {
        __builtin_prefetch(p.cells[k] + at * ctx.hidden + unit, 1);
      }
      if (!projects(ctx)) __builtin_prefetch(p.output + at * p.output_stride + unit, 1);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kSecondPassGates > 0) {
        finish_first_pass(ctx, row, unit, lanes, sums);
      } else if constexpr (kNormalizes<Cell>) {
        T* product = ctx.product + row * ctx.product_stride + unit;
        for (int gate = 0; gate < Cell::kGates; ++gate) {
          S::store(product + gate * ctx.hidden, S::load(sums + gate * S::kLanes), lanes);
        }
      } else {
        const Params& p = ctx.p;
        const T* saved = ctx.saved + row * p.saved_stride + unit;
        V x[Cell::kGates], r[Cell::kGates];
        for (int gate = 0; gate < Cell::kGates; ++gate) {
          x[gate] = S::load(saved + gate * ctx.hidden, lanes);
          r[gate] = gate < kFirstPassGates ? S::load(sums + gate * S::kLanes) : V{};
          if (has_separate_biases<Cell>(gate) && p.b_ih) x[gate] += S::load(p.b_ih + gate * ctx.hidden + unit, lanes);
        }
        finish_cell(ctx, row, unit, lanes, x, r);
      }
    }
  };

  // x and r: see the cell.
  static FASTRNN_INLINE void finish_cell(const StepContext& ctx, int64_t row, int64_t unit, int lanes,
                                         const V (&x)[Cell::kGates], const V (&r)[Cell::kGates]) {
    const Params& p = ctx.p;
    T* saved = inner_saved(ctx, row) + unit;
    CellStep step;
    if constexpr (Cell::kReadsPreviousH) {
      const T* h_prev = ctx.h_prev + row * ctx.hidden;
      if constexpr (kExtended) h_prev = ctx.extras.previous_h(row);
      step.h_prev = S::load(h_prev + unit, lanes);
    }
    for (int k = 0; k < Cell::kCellStates; ++k) {
      step.cell_prev[k] = S::load(ctx.cell[k] + row * ctx.hidden + unit, lanes);
    }
    const PerUnitWeights<Isa, Inner, T> per_unit_weights(p.per_unit_weights, ctx.hidden, unit, lanes);
    step.per_unit_weights = per_unit_weights.values;
    if constexpr (kExtended) step.activation = ctx.extras.extras.activation;
    Inner::forward(x, r, step);
    if (Inner::kReadsSaved && p.keep) {
      for (int c = 0; c < Inner::kSavedValues; ++c) S::store(saved + c * ctx.hidden, step.saved[c], lanes);
    }
    if constexpr (kNormalizesCell<Cell>) {
      S::store(saved + Cell::kOutput * ctx.hidden, step.saved[Cell::kOutput], lanes);
      S::store(ctx.operand + row * ctx.hidden + unit, step.cell[Cell::kC], lanes);
    }
    for (int k = 0; k < Cell::kCellStates; ++k) store_cell(ctx, k, row, unit, lanes, step);
    if constexpr (!kNormalizesCell<Cell>) hand_on_h(ctx, row, unit, lanes, step.h);
  }

  static FASTRNN_INLINE void store_cell(const StepContext& ctx, int state, int64_t row, int64_t unit, int lanes,
                                        const CellStep& step) {
    const Params& p = ctx.p;
    V cell = step.cell[state];
    if constexpr (kExtended) cell = ctx.extras.zoned_cell(state, row, unit, lanes, cell, step.cell_prev[state]);
    if (p.keep) S::store(p.cells[state] + (ctx.first + row) * ctx.hidden + unit, cell, lanes);
    if constexpr (kExtended) {
      if (ctx.extras.cut_after(row) == kCutState) {
        cell = S::load(ctx.extras.extras.reset_cell[state] + row * ctx.hidden + unit, lanes);
      }
    }
    S::store(ctx.cell[state] + row * ctx.hidden + unit, cell, lanes);
  }

  // The inner cell's saved values. If nothing is kept, they overwrite W_ih x.
  static FASTRNN_INLINE T* inner_saved(const StepContext& ctx, int64_t row) {
    T* saved = ctx.saved + row * ctx.p.saved_stride;
    return kNormalizes<Cell> && ctx.p.keep ? saved + kInnerSlot<Cell> * ctx.hidden : saved;
  }

  // Passes h on, to the projection's GEMM or to the next step.
  static FASTRNN_INLINE void hand_on_h(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V h) {
    if (projects(ctx)) {
      S::store(ctx.operand + row * ctx.hidden + unit, h, lanes);
    } else {
      finish_h(ctx, row, unit, lanes, h);
    }
  }

  static FASTRNN_INLINE void finish_row(const StepContext& ctx, int64_t row) {
    const Params& p = ctx.p;
    const int64_t hidden = ctx.hidden;
    const T *input = ctx.saved + row * p.saved_stride, *product = ctx.product + row * ctx.product_stride;
    const T *input_gain = p.per_unit_weights + Cell::kInputGain * hidden,
            *gain = p.per_unit_weights + Cell::kGain * hidden;
    const RowNorm<T> input_norm = norm_of<Isa>(input, Cell::kGates * hidden);
    const RowNorm<T> norm = norm_of<Isa>(product, Cell::kGates * hidden);
    for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      V x[Cell::kGates], r[Cell::kGates];
      for (int gate = 0; gate < Cell::kGates; ++gate) {
        const int64_t at = gate * hidden + unit;
        x[gate] = input_norm(S::load(input + at, lanes)) * S::load(input_gain + at, lanes);
        r[gate] = norm(S::load(product + at, lanes)) * S::load(gain + at, lanes);
        if (p.b_ih) {
          x[gate] += S::load(p.b_ih + at, lanes);
          r[gate] += S::load(p.b_hh + at, lanes);
        }
      }
      finish_cell(ctx, row, unit, lanes, x, r);
    });
  }

  // h of the row, whose c is stored in place of the operand.
  static FASTRNN_INLINE void finish_normalized_c(const StepContext& ctx, int64_t row) {
    const int64_t hidden = ctx.hidden;
    const T* c = ctx.operand + row * hidden;
    const T* output_gate = inner_saved(ctx, row) + Cell::kOutput * hidden;
    const T *gain = ctx.p.per_unit_weights + Cell::kCellGain * hidden,
            *bias = ctx.p.per_unit_weights + Cell::kCellBias * hidden;
    const RowNorm<T> norm = norm_of<Isa>(c, hidden);
    for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      const V normal = norm(S::load(c + unit, lanes)) * S::load(gain + unit, lanes) + S::load(bias + unit, lanes);
      hand_on_h(ctx, row, unit, lanes, Inner::hidden_of(V(S::load(output_gate + unit, lanes)), normal));
    });
  }

  struct SecondEpilogue {
    const StepContext& ctx;

    FASTRNN_INLINE bool prefetches() const { return ctx.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      __builtin_prefetch(ctx.p.output + (ctx.first + row) * ctx.p.output_stride + unit, 1);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kSecondPassGates > 0) {
        finish_second_pass(ctx, row, unit, lanes, S::load(sums));
      } else {
        V h = S::load(sums);
        if constexpr (Cell::kActivatesOutput) h = activate<V>(ctx.extras.extras.output_activation, h);
        finish_h(ctx, row, unit, lanes, h);
      }
    }
  };

  // The gates of the first GEMM, and the left operand of the second.
  static FASTRNN_INLINE void finish_first_pass(const StepContext& ctx, int64_t row, int64_t unit, int lanes,
                                               const T* sums) {
    T* saved = ctx.saved + row * ctx.p.saved_stride + unit;
    V x[Cell::kGates], r[kFirstPassGates];
    for (int gate = 0; gate < kFirstPassGates; ++gate) {
      x[gate] = S::load(saved + gate * ctx.hidden, lanes);
      r[gate] = S::load(sums + gate * S::kLanes);
    }
    CellStep step;
    step.h_prev = S::load(ctx.extras.previous_h(row) + unit, lanes);
    Cell::first_pass(x, r, step);
    for (int gate = 0; gate < kFirstPassGates; ++gate) S::store(saved + gate * ctx.hidden, step.saved[gate], lanes);
    const V operand = ctx.extras.masked(row, unit, lanes, Cell::second_pass_operand(step));
    S::store(ctx.operand + row * ctx.hidden + unit, operand, lanes);
  }

  static FASTRNN_INLINE void finish_second_pass(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V sum) {
    T* saved = ctx.saved + row * ctx.p.saved_stride + unit;
    CellStep step;
    for (int gate = 0; gate < kFirstPassGates; ++gate) step.saved[gate] = S::load(saved + gate * ctx.hidden, lanes);
    step.h_prev = S::load(ctx.extras.previous_h(row) + unit, lanes);
    T* last = saved + kFirstPassGates * ctx.hidden;
    Cell::second_pass(V(S::load(last, lanes)), sum, step);
    if (ctx.p.keep) S::store(last, step.saved[kFirstPassGates], lanes);
    finish_h(ctx, row, unit, lanes, step.h);
  }

  static FASTRNN_INLINE void finish_h(const StepContext& ctx, int64_t row, int64_t unit, int lanes, V h) {
    if constexpr (kExtended) h = ctx.extras.zoned_h(row, unit, lanes, h);
    S::store(ctx.p.output + (ctx.first + row) * ctx.p.output_stride + unit, h, lanes);
    if constexpr (kExtended) {
      if (row < ctx.rows_after) {
        const bool cut = ctx.extras.cut_after(row) == kCutState;
        if (cut) h = S::load(ctx.extras.extras.reset_h + row * ctx.recurrent + unit, lanes);
        h = ctx.extras.masked(row, unit, lanes, h);
      }
    }
    S::store((row < ctx.rows_after ? ctx.h : ctx.p.hy) + row * ctx.recurrent + unit, h, lanes);
  }
};

}  // namespace fastrnn::cpu
