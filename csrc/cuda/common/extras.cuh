// Extras (params.h) in the steps of the streamed path. In a plain recurrence all of it is null or 0.
#pragma once

#include "../../cells/zoneout.h"
#include "../streamed/pointwise.cuh"
#include "numbers.cuh"

namespace fastrnn::cuda {

// The cuts between the rows of a step and the step that they ran before.
struct StepCuts {
  const uint8_t* cuts;  // (rows) or null
  StepRows rows;        // that may have a cut

  __device__ Cut before(int64_t row) const { return cuts && rows.include(row) ? static_cast<Cut>(cuts[row]) : kNoCut; }
};

// Rows that join late have none before their first step.
template <class T>
StepCuts cuts_of_step(const Extras<T, Accumulator<T>>* extras, const Steps& steps, int64_t s) {
  if (!extras || !extras->cuts) return {};
  return {extras->cuts + steps.offset(s), rows_of_step(steps, s > 0 ? s - 1 : s)};
}

// Zoneout: what units keep of their old value at one step.
template <class T>
struct Kept {
  using A = Accumulator<T>;

  const T* mask;  // (rows, columns): 1 keeps all of it, 0 nothing; or null
  A share;        // the fraction kept, if there is no mask

  __device__ bool any() const { return mask || share != 0; }
  __device__ A at(int64_t element) const { return mask ? widen(mask[element]) : share; }
  __device__ A blend(int64_t element, A candidate, A old) const { return zoned(candidate, at(element), old); }
  // The candidate value of h. A mask keeps all or nothing.
  __device__ A candidate(A h, A old) const {
    if (mask || share == 1) return h;
    return candidates_part(h, old, share, static_cast<A>(kEpsilon<T>), static_cast<A>(kLeastNormal<T>)) / (1 - share);
  }
};

template <class T>
struct Zoneout {
  Kept<T> h;
  CellStates<Kept<T>> cell;

  __device__ bool any_cell(int count) const {
    for (int k = 0; k < count; ++k) {
      if (cell[k].any()) return true;
    }
    return false;
  }
};

template <class T>
Zoneout<T> zoneout_of_step(const Extras<T, Accumulator<T>>* extras, const Steps& steps, int64_t s, const Dims& dims) {
  if (!extras) return {};
  const auto kept = [&](const T* mask, T share, int64_t columns) {
    return Kept<T>{mask ? mask + steps.offset(s) * columns : nullptr, static_cast<Accumulator<T>>(share)};
  };
  Zoneout<T> zoneout{kept(extras->kept_h, extras->share_h, dims.recurrent_size), {}};
  for (int k = 0; k < kMaxCellStates; ++k) {
    zoneout.cell[k] = kept(extras->kept_cell[k], extras->share_cell[k], dims.hidden_size);
  }
  return zoneout;
}

// All states of a step, side by side: h, then the cell states. One thread has one value of one of them.
struct StateColumns {
  int64_t recurrent_size, hidden_size;  // K, H
  int cell_states;

  __host__ __device__ int64_t count() const { return recurrent_size + cell_states * hidden_size; }
  __device__ bool are_h(int64_t column) const { return column < recurrent_size; }
  // Which cell state a column belongs to, and its place in that.
  struct Place {
    int state;
    int64_t element;
  };
  __device__ Place in_cell(int64_t row, int64_t column) const {
    const int64_t behind_h = column - recurrent_size;
    return {static_cast<int>(behind_h / hidden_size), row * hidden_size + behind_h % hidden_size};
  }
};

// Prepares the states that one step starts from, before the GEMM with w_hh.
template <class T>
struct EnterStepParams {
  using A = Accumulator<T>;

  StepRows rows;
  StepCuts cuts;
  StateColumns columns;             // of the states that may be reset, and h
  const T* reset_h;                 // (B, K) or null
  CellStates<const A*> reset_cell;  // (B, H) or null
  const T* h_mask;                  // (B, K) or null
  T* h;                             // (B, K): in the previous step's h, out h_{t-1}
  CellStates<A*> cell;              // (B, H): likewise
  T* masked;                        // (B, K): h_{t-1} masked, the operand of w_hh; null if there is no mask
};

template <class T>
__global__ void enter_step(const EnterStepParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns.count());
  if (!p.rows.include(row)) return;
  const bool reset = p.cuts.before(row) == kCutState;
  if (!p.columns.are_h(column)) {
    const auto [state, element] = p.columns.in_cell(row, column);
    if (reset) p.cell[state][element] = p.reset_cell[state][element];
    return;
  }
  const int64_t state = row * p.columns.recurrent_size + column;
  if (reset) p.h[state] = p.reset_h[state];
  if (p.masked) p.masked[state] = narrow<T>(widen(p.h[state]) * widen(p.h_mask[state]));
}

// Prepares the state gradients that one step passes back to the step before.
template <class T>
struct PassBackParams {
  using A = Accumulator<T>;

  StepRows rows;
  StepCuts cuts;
  StateColumns columns;
  A clip;
  const T* h_mask;            // (B, K) or null
  const A* through_w_hh;      // (B, K): dh_{t-1} through w_hh, before the mask; null if already in grad_h
  A* grad_h;                  // (B, K): in the rest of dh_{t-1}, out what is passed on to the step before
  CellStates<A*> grad_cell;   // (B, H): likewise
  A* reset_h;                 // (B, K) and
  CellStates<A*> reset_cell;  // (B, H): accumulated into; null without reset states
};

// The share of a state's gradient that is passed on; after a cut it goes to the reset state instead.
template <class A>
__device__ A passed_back(A grad, A clip, Cut cut, A* reset, int64_t state) {
  // Both comparisons are false for NaN, which passes through.
  grad = grad < -clip ? -clip : grad > clip ? clip : grad;
  if (cut == kCutState) reset[state] += grad;
  return cut == kNoCut ? grad : A{};
}

template <class T>
__global__ void pass_back(const PassBackParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns.count());
  if (!p.rows.include(row)) return;
  const Cut cut = p.cuts.before(row);
  if (!p.columns.are_h(column)) {
    const auto [state, element] = p.columns.in_cell(row, column);
    Accumulator<T>& grad = p.grad_cell[state][element];
    grad = passed_back(grad, p.clip, cut, p.reset_cell[state], element);
    return;
  }
  const int64_t state = row * p.columns.recurrent_size + column;
  Accumulator<T> grad = p.grad_h[state];
  if (p.through_w_hh) grad += p.through_w_hh[state] * widen(p.h_mask[state]);
  p.grad_h[state] = passed_back(grad, p.clip, cut, p.reset_h, state);
}

}  // namespace fastrnn::cuda
