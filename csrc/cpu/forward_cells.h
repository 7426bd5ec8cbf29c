// What the time loop makes of a step's sums, forward: the cell of a batch row and a vector of units, and where its
// results go.
#pragma once

#include "../params.h"
#include "extras.h"
#include "norm_rows.h"
#include "weights.h"

namespace fastrnn::cpu {

template <class Isa, class Cell, class T, class W, bool kExtended>
struct ForwardCells {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Inner = InnerCell<Cell>;
  using CellStep = Step<V, Inner::kChannels>;
  using Params = ForwardParams<T, T, W>;
  struct NoExtras {};
  using AtStep = std::conditional_t<kExtended, StepExtras<Isa, T>, NoExtras>;
  // Gates of the first product of a step. The second is that of the late gate, or the projection.
  static constexpr int kEarlyGates = Cell::kGates - Cell::kLateGates;
  static_assert(Cell::kLateGates <= 1);

  // What the cells of a step read, held in locals: as far as the compiler knows, storing a vector may change a member.
  struct Now {
    Params p;
    int64_t hidden, recurrent;
    bool has_projection;
    Range rows;          // that the member runs
    int64_t first;       // row of the data that batch row 0 has
    T* channels;         // (B, channel_stride)
    int64_t rows_after;  // that run at the next step too
    const T* h_prev;     // (B, K)
    T* h;                // (B, K)
    T* c;                // (B, H): c_{t-1}, then c_t
    T* operand;          // (B, H)
    T* product;          // (B, product_stride), of a cell that normalises it
    int64_t product_stride;
    bool prefetch;
    AtStep extras;
  };

  static FASTRNN_INLINE bool projects(const Now& now) { return Cell::kProjects && now.has_projection; }

  struct FinishCell {
    const Now& now;

    FASTRNN_INLINE bool prefetches() const { return now.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      const Params& p = now.p;
      const int64_t at = now.first + row;
      for (int gate = 0; gate < Cell::kGates; ++gate) {
        __builtin_prefetch(now.channels + row * p.channel_stride + gate * now.hidden + unit);
      }
      if (p.keep && Cell::kHasCellState) __builtin_prefetch(p.cells + at * now.hidden + unit, 1);
      if (!projects(now)) __builtin_prefetch(p.output + at * p.output_stride + unit, 1);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kLateGates > 0) {
        finish_early(now, row, unit, lanes, sums);
      } else if constexpr (kNormalizes<Cell>) {
        T* product = now.product + row * now.product_stride + unit;
        for (int gate = 0; gate < Cell::kGates; ++gate) {
          S::store(product + gate * now.hidden, S::load(sums + gate * S::kLanes), lanes);
        }
      } else {
        const Params& p = now.p;
        const T* channels = now.channels + row * p.channel_stride + unit;
        V x[Cell::kGates], r[Cell::kGates];
        for (int gate = 0; gate < Cell::kGates; ++gate) {
          x[gate] = S::load(channels + gate * now.hidden, lanes);
          r[gate] = S::load(sums + gate * S::kLanes);
          if (gate == Cell::kApartBias && p.b_ih) x[gate] += S::load(p.b_ih + gate * now.hidden + unit, lanes);
        }
        finish_cell(now, row, unit, lanes, x, r);
      }
    }
  };

  // See the cell for x and r.
  static FASTRNN_INLINE void finish_cell(const Now& now, int64_t row, int64_t unit, int lanes,
                                         const V (&x)[Cell::kGates], const V (&r)[Cell::kGates]) {
    const Params& p = now.p;
    const int64_t at = now.first + row;
    T* channels = inner_channels(now, row) + unit;
    CellStep step;
    if constexpr (Cell::kReadsPreviousH) {
      const T* h_prev = now.h_prev + row * now.hidden;
      if constexpr (kExtended) h_prev = now.extras.previous_h(row);
      step.h_prev = S::load(h_prev + unit, lanes);
    }
    if constexpr (Cell::kHasCellState) step.c_prev = S::load(now.c + row * now.hidden + unit, lanes);
    const UnitWeights<Isa, Inner, T> unit_weights(p.unit_weights, now.hidden, unit, lanes);
    step.unit_weights = unit_weights.values;
    if constexpr (kExtended) step.activation = now.extras.extras.activation;
    Inner::forward(x, r, step);
    if (Inner::kKeepsChannels && p.keep) {
      for (int c = 0; c < Inner::kChannels; ++c) S::store(channels + c * now.hidden, step.channels[c], lanes);
    }
    if constexpr (kNormalizesCell<Cell>) {
      S::store(channels + Cell::kOutput * now.hidden, step.channels[Cell::kOutput], lanes);
      S::store(now.operand + row * now.hidden + unit, step.c, lanes);
    }
    if constexpr (Cell::kHasCellState) {
      if constexpr (kExtended) step.c = now.extras.zoned_c(row, unit, lanes, step.c, step.c_prev);
      if (p.keep) S::store(p.cells + at * now.hidden + unit, step.c, lanes);
      if constexpr (kExtended) {
        if (now.extras.cut_after(row) == kCutState) {
          step.c = S::load(now.extras.extras.reset_c + row * now.hidden + unit, lanes);
        }
      }
      S::store(now.c + row * now.hidden + unit, step.c, lanes);
    }
    if constexpr (!kNormalizesCell<Cell>) hand_on_h(now, row, unit, lanes, step.h);
  }

  // The cell's own channels. Where nothing is kept, they take the place of W_ih x.
  static FASTRNN_INLINE T* inner_channels(const Now& now, int64_t row) {
    T* channels = now.channels + row * now.p.channel_stride;
    return kNormalizes<Cell> && now.p.keep ? channels + kInnerChannel<Cell> * now.hidden : channels;
  }

  // h, to the product with the projection or to the next step.
  static FASTRNN_INLINE void hand_on_h(const Now& now, int64_t row, int64_t unit, int lanes, V h) {
    if (projects(now)) {
      S::store(now.operand + row * now.hidden + unit, h, lanes);
    } else {
      finish_h(now, row, unit, lanes, h);
    }
  }

  static FASTRNN_INLINE void finish_row(const Now& now, int64_t row) {
    const Params& p = now.p;
    const int64_t hidden = now.hidden;
    const T *input = now.channels + row * p.channel_stride, *product = now.product + row * now.product_stride;
    const T *input_gain = p.unit_weights + Cell::kInputGain * hidden, *gain = p.unit_weights + Cell::kGain * hidden;
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
      finish_cell(now, row, unit, lanes, x, r);
    });
  }

  // h of the row, whose c lies in the place of the operand.
  static FASTRNN_INLINE void finish_normalized_c(const Now& now, int64_t row) {
    const int64_t hidden = now.hidden;
    const T* c = now.operand + row * hidden;
    const T* output_gate = inner_channels(now, row) + Cell::kOutput * hidden;
    const T *gain = now.p.unit_weights + Cell::kCellGain * hidden,
            *bias = now.p.unit_weights + Cell::kCellBias * hidden;
    const RowNorm<T> norm = norm_of<Isa>(c, hidden);
    for_each_vector<Isa, T>(hidden, [&](int64_t unit, int lanes) FASTRNN_INLINE_LAMBDA {
      const V normal = norm(S::load(c + unit, lanes)) * S::load(gain + unit, lanes) + S::load(bias + unit, lanes);
      hand_on_h(now, row, unit, lanes, Inner::hidden_of(V(S::load(output_gate + unit, lanes)), normal));
    });
  }

  struct FinishSecond {
    const Now& now;

    FASTRNN_INLINE bool prefetches() const { return now.prefetch; }
    FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const {
      __builtin_prefetch(now.p.output + (now.first + row) * now.p.output_stride + unit, 1);
    }
    FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
      if constexpr (Cell::kLateGates > 0) {
        finish_late(now, row, unit, lanes, S::load(sums));
      } else {
        V h = S::load(sums);
        if constexpr (Cell::kActivatesOutput) h = activate<V>(now.extras.extras.output_activation, h);
        finish_h(now, row, unit, lanes, h);
      }
    }
  };

  // The gates of the first product, and what the second one multiplies.
  static FASTRNN_INLINE void finish_early(const Now& now, int64_t row, int64_t unit, int lanes, const T* sums) {
    T* channels = now.channels + row * now.p.channel_stride + unit;
    V x[Cell::kGates], r[kEarlyGates];
    for (int gate = 0; gate < kEarlyGates; ++gate) {
      x[gate] = S::load(channels + gate * now.hidden, lanes);
      r[gate] = S::load(sums + gate * S::kLanes);
    }
    CellStep step;
    step.h_prev = S::load(now.extras.previous_h(row) + unit, lanes);
    Cell::early(x, r, step);
    for (int gate = 0; gate < kEarlyGates; ++gate) S::store(channels + gate * now.hidden, step.channels[gate], lanes);
    const V operand = now.extras.masked(row, unit, lanes, Cell::late_operand(step));
    S::store(now.operand + row * now.hidden + unit, operand, lanes);
  }

  static FASTRNN_INLINE void finish_late(const Now& now, int64_t row, int64_t unit, int lanes, V sum) {
    T* channels = now.channels + row * now.p.channel_stride + unit;
    CellStep step;
    for (int gate = 0; gate < kEarlyGates; ++gate) step.channels[gate] = S::load(channels + gate * now.hidden, lanes);
    step.h_prev = S::load(now.extras.previous_h(row) + unit, lanes);
    T* last = channels + kEarlyGates * now.hidden;
    Cell::late(V(S::load(last, lanes)), sum, step);
    if (now.p.keep) S::store(last, step.channels[kEarlyGates], lanes);
    finish_h(now, row, unit, lanes, step.h);
  }

  static FASTRNN_INLINE void finish_h(const Now& now, int64_t row, int64_t unit, int lanes, V h) {
    if constexpr (kExtended) h = now.extras.zoned_h(row, unit, lanes, h);
    S::store(now.p.output + (now.first + row) * now.p.output_stride + unit, h, lanes);
    if constexpr (kExtended) {
      if (row < now.rows_after) {
        const bool cut = now.extras.cut_after(row) == kCutState;
        if (cut) h = S::load(now.extras.extras.reset_h + row * now.recurrent + unit, lanes);
        h = now.extras.masked(row, unit, lanes, h);
      }
    }
    S::store((row < now.rows_after ? now.h : now.p.hy) + row * now.recurrent + unit, h, lanes);
  }
};

}  // namespace fastrnn::cpu
