// The recurrences again, slow and plain, in f64 on std::vector: the reference for the kernels.
//
// Independent of csrc/cells: the equations are written a second time.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "cells/registry.h"
#include "params.h"

namespace fastrnn::test {

constexpr CellKind kRnnTanh = kind_of<Elman<Tanh>>(), kRnnRelu = kind_of<Elman<Relu>>();
constexpr CellKind kLstm = kind_of<Lstm>(), kGru = kind_of<Gru>();

using Values = std::vector<double>;

// Marks values that no kernel may read in an input, or write in an output.
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

// One direction of one layer over a batch. Letters as in params.h.
struct Problem {
  CellKind cell;
  int64_t steps, batch, hidden, recurrent;  // T, B, H, K
  bool projected, reverse;
  std::vector<int64_t> sizes, offsets;  // (T): rows that run at each time, and the first of them
  int64_t rows, input_size;             // N, I

  Values input, w_ih;       // (N, I), (G*H, I)
  Values x;                 // (N, G*H): input w_ih^T, exact in every type
  Values w_hh, w_hr;        // (G*H, K), (P, H)
  Values b_ih, b_hh;        // (G*H), or empty
  Values hx, cx;            // (B, K), (B, H)
  Values grad_output;       // (N, K), or empty
  Values grad_hy, grad_cy;  // (B, K), (B, H)

  int64_t gates() const;         // G
  int64_t saved_values() const;  // C
  int64_t time(int64_t step) const { return reverse ? steps - 1 - step : step; }
  bool runs(int64_t step, int64_t b) const { return b < sizes[time(step)]; }
  int64_t row(int64_t step, int64_t b) const { return offsets[time(step)] + b; }
  // The slot whose gradient is that of gate `gate` of w_hh h_{t-1} + b_hh.
  int64_t recurrent_slot(int64_t gate) const;
};

// Rows that do not run hold kNothing.
struct Forward {
  Values output, hy, cy;      // (N, K), (B, K), (B, H)
  Values saved, cells;        // (N, C*H), (N, H)
  Values hidden;              // (N, H): h before the projection
  Values h_before, c_before;  // (N, K), (N, H): the state that each step started from
};

struct Backward {
  Values grad_saved;        // (N, C*H)
  Values grad_projected;    // (N, K)
  Values grad_hx, grad_cx;  // (B, K), (B, H)
};

Forward run_forward(const Problem& problem);
Backward run_backward(const Problem& problem, const Forward& forward);

}  // namespace fastrnn::test
