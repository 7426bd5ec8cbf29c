// The streamed path, forward: the cells of one step, applied to the GEMM's result, one thread per unit.
#pragma once

#include "../../cells/normalized.h"
#include "../common/extras.cuh"
#include "../common/numbers.cuh"
#include "pointwise.cuh"

namespace fastrnn::cuda {

// One step. Pointers to per-step data point to the step's first row.
template <class T>
struct CellForwardParams {
  using A = Accumulator<T>;

  StepRows rows;
  int64_t hidden_size;  // H
  bool keep;            // see ForwardParams
  A* product;           // (rows, G*H): h_{t-1} W_hh^T; with layer normalisation, overwritten with its normalised values
  A* input;             // (rows, G*H): x W_ih^T, normalised; only with layer normalisation
  const T *b_ih, *b_hh;  // (G*H) or null
  const T* per_unit_weights;
  T* saved;  // (rows, saved_stride): in x W_ih^T, out the saved values if keep
  int64_t saved_stride;
  CellStates<A*> cell;   // (B, H): in before the step, out after it
  CellStates<A*> cells;  // (rows, H): after it, or null
  T* h;                  // (B, H): in h_{t-1}, out h_t; null with a projection
  T* output;             // (rows, output_stride): h_t; null with a projection
  int64_t output_stride;
  T* operand;       // (rows, H): operand of the step's second GEMM (see BackwardParams), or null
  const T* h_mask;  // (B, K) or null; masks a second-pass gate's operand
  A* candidate_c;   // (B, H): c_t before zoneout, with layer normalisation
  Zoneout<T> zoneout;
  Activation activation;
};

// Finishes and stores h_t of a unit.
template <class T>
__device__ void finish_h(const CellForwardParams<T>& p, int64_t row, int64_t unit, Accumulator<T> h) {
  const int64_t state = row * p.hidden_size + unit;
  if (p.zoneout.h.any()) h = p.zoneout.h.blend(state, h, widen(p.h[state]));
  p.h[state] = p.output[row * p.output_stride + unit] = narrow<T>(h);
}

// Passes h on, to the projection's GEMM or to the next step.
template <class T>
__device__ void hand_on_h(const CellForwardParams<T>& p, int64_t row, int64_t unit, Accumulator<T> h) {
  if (p.operand) {
    p.operand[row * p.hidden_size + unit] = narrow<T>(h);
  } else {
    finish_h(p, row, unit, h);
  }
}

// The inner cell's saved values. If nothing is kept, they overwrite x W_ih^T.
template <class Cell, class T>
__device__ T* inner_saved(const CellForwardParams<T>& p, int64_t row) {
  T* saved = p.saved + row * p.saved_stride;
  return kNormalizes<Cell> && p.keep ? saved + kInnerSlot<Cell> * p.hidden_size : saved;
}

template <class Cell, class T>
__global__ void cell_forward(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  using Inner = InnerCell<Cell>;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  const int64_t first = row * Cell::kGates * hidden + unit;
  T* saved = inner_saved<Cell>(p, row) + unit;
  A x[Cell::kGates], r[Cell::kGates];
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    x[gate] = kNormalizes<Cell> ? p.input[first + gate * hidden] : widen(saved[gate * hidden]);
    r[gate] = p.product[first + gate * hidden];
    if (p.b_ih) {
      A& joined = has_separate_biases<Inner>(gate) ? x[gate] : r[gate];
      joined += widen(p.b_ih[gate * hidden + unit]);
      r[gate] += widen(p.b_hh[gate * hidden + unit]);
    }
  }
  Step<A, Inner::kSavedValues> step;
  if constexpr (Cell::kActivatesOutput) step.activation = p.activation;
  if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(p.h[state]);
  for (int k = 0; k < Cell::kCellStates; ++k) step.cell_prev[k] = p.cell[k][state];
  const PerUnitWeights<Inner, T> per_unit_weights(p.per_unit_weights, hidden, unit);
  step.per_unit_weights = per_unit_weights.values;
  Inner::forward(x, r, step);
  if constexpr (Inner::kReadsSaved) {
    for (int c = 0; p.keep && c < Inner::kSavedValues; ++c) saved[c * hidden] = narrow<T>(step.saved[c]);
  }
  if constexpr (kNormalizesCell<Cell>) {
    saved[Cell::kOutput * hidden] = narrow<T>(step.saved[Cell::kOutput]);
    p.candidate_c[state] = step.cell[Cell::kC];
  }
  for (int k = 0; k < Cell::kCellStates; ++k) {
    const Kept<T>& kept = p.zoneout.cell[k];
    const A cell = kept.any() ? kept.blend(state, step.cell[k], step.cell_prev[k]) : step.cell[k];
    p.cell[k][state] = cell;
    if (p.cells[k]) p.cells[k][state] = cell;
  }
  if constexpr (!kNormalizesCell<Cell>) hand_on_h(p, row, unit, step.h);
}

// A cell with a second-pass gate, before that gate's GEMM and after it. Between the two, the first-pass gates are held
// in `saved`.
template <class Cell, class T>
__global__ void cell_first_pass(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  constexpr int kFirstPassGates = Cell::kGates - Cell::kSecondPassGates;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  T* saved = p.saved + row * p.saved_stride + unit;
  A x[Cell::kGates], r[kFirstPassGates];
  for (int gate = 0; gate < kFirstPassGates; ++gate) {
    x[gate] = widen(saved[gate * hidden]);
    r[gate] = p.product[(row * kFirstPassGates + gate) * hidden + unit];
    if (p.b_ih) r[gate] += widen(p.b_ih[gate * hidden + unit]) + widen(p.b_hh[gate * hidden + unit]);
  }
  Step<A, Cell::kSavedValues> step;
  step.h_prev = widen(p.h[state]);
  Cell::first_pass(x, r, step);
  for (int gate = 0; gate < kFirstPassGates; ++gate) saved[gate * hidden] = narrow<T>(step.saved[gate]);
  A operand = Cell::second_pass_operand(step);
  if (p.h_mask) operand *= widen(p.h_mask[state]);
  p.operand[state] = narrow<T>(operand);
}

template <class Cell, class T>
__global__ void cell_second_pass(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  constexpr int kSecondPassGate = Cell::kGates - Cell::kSecondPassGates;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  T* saved = p.saved + row * p.saved_stride + unit;
  A r = p.product[state];
  if (p.b_ih) r += widen(p.b_ih[kSecondPassGate * hidden + unit]) + widen(p.b_hh[kSecondPassGate * hidden + unit]);
  Step<A, Cell::kSavedValues> step;
  for (int gate = 0; gate < kSecondPassGate; ++gate) step.saved[gate] = widen(saved[gate * hidden]);
  step.h_prev = widen(p.h[state]);
  Cell::second_pass(widen(saved[kSecondPassGate * hidden]), r, step);
  if (p.keep) saved[kSecondPassGate * hidden] = narrow<T>(step.saved[kSecondPassGate]);
  finish_h(p, row, unit, step.h);
}

}  // namespace fastrnn::cuda
