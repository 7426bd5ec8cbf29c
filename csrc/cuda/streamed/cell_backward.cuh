// The streamed path, backward: the cells' derivatives of one step, one thread per unit.
#pragma once

#include "../../cells/normalized.h"
#include "../common/extras.cuh"
#include "../common/numbers.cuh"
#include "pointwise.cuh"

namespace fastrnn::cuda {

// One step. Pointers to per-step data point to the step's first row, those ending in `_before` to the first row of the
// step before.
template <class T>
struct CellBackwardParams {
  using A = Accumulator<T>;

  StepRows rows, rows_before;
  int64_t hidden_size;                           // H
  const T* saved;                                // (rows, C*H), or null if the cell saves none
  CellStates<const A*> cells, cells_before, cx;  // (rows, H), (rows, H), (B, H)
  const T *output, *output_before;               // (rows, output_stride)
  int64_t output_stride;
  const T* hx;           // (B, H)
  const T* grad_output;  // (rows, grad_output_stride) or null for zeros
  int64_t grad_output_stride;
  A* grad_h;  // (B, H): in dh_t without grad_output, out the part of dh_{t-1} that bypasses w_hh; null with a
              // projection
  const A* grad_operand;     // (rows, H): gradient of the second GEMM's operand; null if there is no such GEMM
  CellStates<A*> grad_cell;  // (B, H): in of the states after the step, out of those before it
  T* grad_saved;             // (rows, C*H)
  const T* per_unit_weights;
  A* grad_per_unit_weights;  // (B, kPerUnitWeights * H): accumulated into
  A* dc;                     // (B, H): dc_t through its normalisation, with layer normalisation
  A* candidate_c;            // (B, H): out, c_t before zoneout, with layer normalisation
  T* operand;                // (rows, H): see BackwardParams; or null
  const T* h_mask;           // (B, K) or null; masks a second-pass gate's operand
  Activation activation;
  Zoneout<T> zoneout;
  StepCuts cuts;
  const T* reset_h;                 // (B, H) and
  CellStates<const A*> reset_cell;  // (B, H): initial states of rows after a cut
  CellStates<const T*> grad_cells;  // (rows, grad_cells_stride): contribution to grad_cell, or null
  int64_t grad_cells_stride;
};

// The gradient arriving at h_t from the output and from the step after, split into the share that zoneout passes
// straight through (kept) and the rest.
template <class T>
struct ArrivedGrad {
  Accumulator<T> grad, kept;

  __device__ ArrivedGrad(const CellBackwardParams<T>& p, int64_t row, int64_t unit) : kept{} {
    const int64_t state = row * p.hidden_size + unit;
    grad = p.grad_h[state];
    if (p.grad_output) grad += widen(p.grad_output[row * p.grad_output_stride + unit]);
    if (p.zoneout.h.any()) kept = take_kept(p.zoneout.h.at(state), grad);
  }
};

// The h that a row's step starts from.
template <class T>
__device__ Accumulator<T> previous_h(const CellBackwardParams<T>& p, int64_t row, int64_t unit) {
  const int64_t state = row * p.hidden_size + unit;
  if (p.cuts.before(row) == kCutState) return widen(p.reset_h[state]);
  return widen(p.rows_before.include(row) ? p.output_before[row * p.output_stride + unit] : p.hx[state]);
}

// The states before and after the row's step, the latter before zoneout.
template <class Cell, class T>
__device__ auto load_step(const CellBackwardParams<T>& p, int64_t row, int64_t unit) {
  using Inner = InnerCell<Cell>;
  const int64_t hidden = p.hidden_size, state = row * hidden + unit;
  Step<Accumulator<T>, Inner::kSavedValues> step;
  if constexpr (Cell::kActivatesOutput) step.activation = p.activation;
  if constexpr (Inner::kReadsSaved) {
    const T* saved = p.saved + (row * Cell::kSavedValues + kInnerSlot<Cell>)*hidden + unit;
    for (int c = 0; c < Inner::kSavedValues; ++c) step.saved[c] = widen(saved[c * hidden]);
  }
  if (Cell::kReadsPreviousH || (Cell::kReadsH && p.zoneout.h.any())) step.h_prev = previous_h(p, row, unit);
  if constexpr (Cell::kReadsH) {
    step.h = widen(p.output[row * p.output_stride + unit]);
    if (p.zoneout.h.any()) step.h = p.zoneout.h.candidate(step.h, step.h_prev);
  }
  if constexpr (Cell::kCellStates > 0) {
    const bool reset = p.cuts.before(row) == kCutState, ran_before = p.rows_before.include(row);
    for (int k = 0; k < Cell::kCellStates; ++k) {
      step.cell_prev[k] = (reset ? p.reset_cell[k] : ran_before ? p.cells_before[k] : p.cx[k])[state];
      step.cell[k] = p.cells[k][state];
    }
    if (p.zoneout.any_cell(Cell::kCellStates)) Inner::candidates(step);
  }
  return step;
}

template <class Cell, class T>
__global__ void cell_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  using Inner = InnerCell<Cell>;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  const int64_t first_saved = (row * Cell::kSavedValues + kInnerSlot<Cell>)*hidden + unit;
  auto step = load_step<Cell>(p, row, unit);
  StepGrad<A, Inner::kSavedValues, Inner::kPerUnitWeights> grad;
  const PerUnitWeights<Inner, T> per_unit_weights(p.per_unit_weights, hidden, unit);
  step.per_unit_weights = per_unit_weights.values;
  A kept_grad_h{}, kept_grad[kMaxCellStates]{};  // what zoneout passes straight through
  if (p.grad_operand) {
    grad.h = p.grad_operand[state];
  } else {
    const ArrivedGrad<T> arrived(p, row, unit);
    grad.h = arrived.grad;
    kept_grad_h = arrived.kept;
  }
  for (int k = 0; k < Cell::kCellStates; ++k) {
    grad.cell[k] = p.grad_cell[k][state];
    if (p.grad_cells[k]) grad.cell[k] += widen(p.grad_cells[k][row * p.grad_cells_stride + unit]);
    if (p.zoneout.cell[k].any()) kept_grad[k] = take_kept(p.zoneout.cell[k].at(state), grad.cell[k]);
  }
  if constexpr (kNormalizesCell<Cell>) {
    grad.saved[Cell::kOutput] = widen(p.grad_saved[first_saved + Cell::kOutput * hidden]);
    grad.cell[Cell::kC] += p.dc[state];
    Inner::cell_backward(step, grad);
  } else {
    if constexpr (Cell::kProjects) {
      if (p.operand) p.operand[state] = narrow<T>(Inner::hidden(step));
    }
    Inner::backward(step, grad);
  }
  for (int c = 0; c < Inner::kSavedValues; ++c) p.grad_saved[first_saved + c * hidden] = narrow<T>(grad.saved[c]);
  if constexpr (Inner::kPerUnitWeights > 0) {
    A* sums = p.grad_per_unit_weights + row * Cell::kPerUnitWeights * hidden + unit;
    for (int w = 0; w < Inner::kPerUnitWeights; ++w) sums[w * hidden] += grad.per_unit_weights[w];
  }
  if (p.grad_h) p.grad_h[state] = (Cell::kCarriesH ? grad.h : A{}) + kept_grad_h;
  for (int k = 0; k < Cell::kCellStates; ++k) p.grad_cell[k][state] = grad.cell[k] + kept_grad[k];
}

// A cell with a second-pass gate, before that gate's GEMM and after it.
template <class Cell, class T>
__global__ void cell_second_pass_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  const auto [row, unit] = element_of_thread(p.hidden_size);
  if (!p.rows.include(row)) return;
  const int64_t first_saved = row * Cell::kSavedValues * p.hidden_size + unit;
  Step<A, Cell::kSavedValues> step;
  StepGrad<A, Cell::kSavedValues> grad;
  for (int c = 0; c < Cell::kSavedValues; ++c) step.saved[c] = widen(p.saved[first_saved + c * p.hidden_size]);
  step.h_prev = previous_h(p, row, unit);
  const ArrivedGrad<T> arrived(p, row, unit);
  grad.h = arrived.grad;
  Cell::second_pass_backward(step, grad);
  for (int c = 0; c < Cell::kSavedValues; ++c) {
    if (c != Cell::kReset) p.grad_saved[first_saved + c * p.hidden_size] = narrow<T>(grad.saved[c]);
  }
  p.grad_h[row * p.hidden_size + unit] = grad.h + arrived.kept;
}

template <class Cell, class T>
__global__ void cell_first_pass_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  const auto [row, unit] = element_of_thread(p.hidden_size);
  if (!p.rows.include(row)) return;
  const int64_t state = row * p.hidden_size + unit, first_saved = row * Cell::kSavedValues * p.hidden_size + unit;
  Step<A, Cell::kSavedValues> step;
  StepGrad<A, Cell::kSavedValues> grad;
  for (int c = 0; c < Cell::kSavedValues; ++c) step.saved[c] = widen(p.saved[first_saved + c * p.hidden_size]);
  step.h_prev = previous_h(p, row, unit);
  const A mask = p.h_mask ? widen(p.h_mask[state]) : A(1);
  Cell::first_pass_backward(p.grad_operand[state] * mask, step, grad);
  p.grad_saved[first_saved + Cell::kReset * p.hidden_size] = narrow<T>(grad.saved[Cell::kReset]);
  p.grad_h[state] += grad.h;
  p.operand[state] = narrow<T>(Cell::second_pass_operand(step) * mask);
}

}  // namespace fastrnn::cuda
