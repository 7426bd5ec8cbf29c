// The streamed path, forward: at every step a product of h_{t-1} and w_hh, then the cells, a thread for each unit.
#pragma once

#include "../cells/cell.h"
#include "extras.cuh"
#include "gemm.h"
#include "numbers.cuh"
#include "pointwise.cuh"

namespace fastrnn::cuda {

// One step. Pointers to what differs from step to step point to its first row.
template <class T>
struct CellForwardParams {
  using A = Accumulator<T>;

  StepRows rows;
  int64_t hidden_size;   // H
  bool keep;             // see ForwardParams
  const A* product;      // (rows, G*H): h_{t-1} W_hh^T
  const T *b_ih, *b_hh;  // (G*H) or null
  const T* unit_weights;
  T* channels;  // (rows, channel_stride): in x W_ih^T, out the channels if keep
  int64_t channel_stride;
  A* cell;    // (B, H): in c_{t-1}, out c_t
  A* cells;   // (rows, H): c_t, or null
  T* h;       // (B, H): in h_{t-1}, out h_t; null with a projection
  T* output;  // (rows, output_stride): h_t; null with a projection
  int64_t output_stride;
  T* operand;       // (rows, H): what the step's second product multiplies (see BackwardParams), or null
  const T* h_mask;  // (B, K) or null; where a late gate's operand is masked
  Zoneout<T> zoneout;
  Activation activation;
};

// h_t of a unit and where it goes.
template <class T>
__device__ void finish_h(const CellForwardParams<T>& p, int64_t row, int64_t unit, Accumulator<T> h) {
  const int64_t state = row * p.hidden_size + unit;
  if (p.zoneout.h.any()) h = p.zoneout.h.blend(state, h, widen(p.h[state]));
  p.h[state] = p.output[row * p.output_stride + unit] = narrow<T>(h);
}

template <class Cell, class T>
__global__ void cell_forward(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  const A* product = p.product + row * Cell::kGates * hidden + unit;
  T* channels = p.channels + row * p.channel_stride + unit;
  A x[Cell::kGates], r[Cell::kGates];
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    x[gate] = widen(channels[gate * hidden]);
    r[gate] = product[gate * hidden];
    if (p.b_ih) {
      A& joined = gate == Cell::kApartBias ? x[gate] : r[gate];
      joined += widen(p.b_ih[gate * hidden + unit]);
      r[gate] += widen(p.b_hh[gate * hidden + unit]);
    }
  }
  Step<A, Cell::kChannels> step;
  if constexpr (Cell::kActivatesOutput) step.activation = p.activation;
  if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(p.h[state]);
  if constexpr (Cell::kHasCellState) step.c_prev = p.cell[state];
  const UnitWeights<Cell, T> unit_weights(p.unit_weights, hidden, unit);
  step.unit_weights = unit_weights.values;
  Cell::forward(x, r, step);
  if constexpr (Cell::kKeepsChannels) {
    for (int c = 0; p.keep && c < Cell::kChannels; ++c) channels[c * hidden] = narrow<T>(step.channels[c]);
  }
  if constexpr (Cell::kHasCellState) {
    if (p.zoneout.c.any()) step.c = p.zoneout.c.blend(state, step.c, step.c_prev);
    p.cell[state] = step.c;
    if (p.cells) p.cells[state] = step.c;
  }
  if (p.operand) {
    p.operand[state] = narrow<T>(step.h);
  } else {
    finish_h(p, row, unit, step.h);
  }
}

// A cell with a late gate, before that gate's product and after it. The early gates wait in the channels.
template <class Cell, class T>
__global__ void cell_early(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  constexpr int kEarlyGates = Cell::kGates - Cell::kLateGates;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  T* channels = p.channels + row * p.channel_stride + unit;
  A x[Cell::kGates], r[kEarlyGates];
  for (int gate = 0; gate < kEarlyGates; ++gate) {
    x[gate] = widen(channels[gate * hidden]);
    r[gate] = p.product[(row * kEarlyGates + gate) * hidden + unit];
    if (p.b_ih) r[gate] += widen(p.b_ih[gate * hidden + unit]) + widen(p.b_hh[gate * hidden + unit]);
  }
  Step<A, Cell::kChannels> step;
  step.h_prev = widen(p.h[state]);
  Cell::early(x, r, step);
  for (int gate = 0; gate < kEarlyGates; ++gate) channels[gate * hidden] = narrow<T>(step.channels[gate]);
  A operand = Cell::late_operand(step);
  if (p.h_mask) operand *= widen(p.h_mask[state]);
  p.operand[state] = narrow<T>(operand);
}

template <class Cell, class T>
__global__ void cell_late(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  constexpr int kLate = Cell::kGates - Cell::kLateGates;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const int64_t state = row * hidden + unit;
  T* channels = p.channels + row * p.channel_stride + unit;
  A r = p.product[state];
  if (p.b_ih) r += widen(p.b_ih[kLate * hidden + unit]) + widen(p.b_hh[kLate * hidden + unit]);
  Step<A, Cell::kChannels> step;
  for (int gate = 0; gate < kLate; ++gate) step.channels[gate] = widen(channels[gate * hidden]);
  step.h_prev = widen(p.h[state]);
  Cell::late(widen(channels[kLate * hidden]), r, step);
  if (p.keep) channels[kLate * hidden] = narrow<T>(step.channels[kLate]);
  finish_h(p, row, unit, step.h);
}

// One step of a layer with a projection, after the product with w_hr.
template <class T>
struct FinishProjectionParams {
  StepRows rows;
  int64_t columns;                // P
  const Accumulator<T>* product;  // (rows, P)
  const T* b_hr;                  // (P) or null
  Activation activation;
  T* h;       // (B, P): in h_{t-1}, out h_t
  T* output;  // (rows, output_stride)
  int64_t output_stride;
  Kept<T> kept_h;
};

template <class T>
__global__ void finish_projection(const FinishProjectionParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns);
  if (!p.rows.include(row)) return;
  const int64_t state = row * p.columns + column;
  Accumulator<T> h = p.product[state];
  if (p.b_hr) h += widen(p.b_hr[column]);
  h = activate(p.activation, h);
  if (p.kept_h.any()) h = p.kept_h.blend(state, h, widen(p.h[state]));
  p.h[state] = p.output[row * p.output_stride + column] = narrow<T>(h);
}

template <class Cell, class T>
class StreamedForward {
  using A = Accumulator<T>;

 public:
  static int64_t scratch_size(const Forward<T>& params) {
    const Dims& dims = params.dims;
    const int64_t product = dims.batch * Cell::kGates * dims.hidden_size;
    const int64_t masked = masks_h(params) ? dims.batch * dims.recurrent_size : 0;
    return product * static_cast<int64_t>(sizeof(A) / sizeof(T)) + operand_size(dims) + masked;
  }

  static void run(const Forward<T>& params, const Queue& queue) {
    const StreamedForward pass(params, queue);
    for (int64_t s = 0; s < params.steps.steps; ++s) {
      if (params.steps.rows(s) > 0) pass.run_step(s);
    }
  }

 private:
  StreamedForward(const Forward<T>& params, const Queue& queue)
      : p_(params),
        queue_(queue),
        hidden_(params.dims.hidden_size),
        recurrent_(params.dims.recurrent_size),
        product_(reinterpret_cast<A*>(params.scratch)),
        operand_(reinterpret_cast<T*>(product_ + params.dims.batch * Cell::kGates * hidden_)),
        masked_(masks_h(params) ? operand_ + operand_size(params.dims) : nullptr) {}

  static int64_t operand_size(const Dims& dims) {
    return dims.projected || Cell::kLateGates > 0 ? dims.batch * dims.hidden_size : 0;
  }
  static bool masks_h(const Forward<T>& params) { return params.extras && params.extras->h_mask; }

  void run_step(int64_t s) const {
    const int64_t rows = p_.steps.rows(s), gate_columns = (Cell::kGates - Cell::kLateGates) * hidden_;
    if (p_.extras && (p_.extras->reset_h || masked_)) enter(s);
    const Matrix<const T> h{masked_ ? masked_ : p_.hy, rows, recurrent_, recurrent_};
    const Matrix<const T> w_hh{p_.w_hh, gate_columns, recurrent_, recurrent_};
    gemm<T, A>({product_, rows, gate_columns, gate_columns}, h, w_hh.transposed(), false, queue_);
    if constexpr (Cell::kLateGates > 0) {
      launch_pointwise(cell_early<Cell, T>, rows, hidden_, cell_params(s), queue_.stream);
      multiply_operand(rows, {p_.w_hh + gate_columns * recurrent_, hidden_, recurrent_, recurrent_});
      launch_pointwise(cell_late<Cell, T>, rows, hidden_, cell_params(s), queue_.stream);
    } else {
      launch_pointwise(cell_forward<Cell, T>, rows, hidden_, cell_params(s), queue_.stream);
    }
    if (!p_.dims.projected) return;
    multiply_operand(rows, {p_.w_hr, recurrent_, hidden_, hidden_});
    launch_pointwise(finish_projection<T>, rows, recurrent_,
                     {rows_of_step(p_.steps, s), recurrent_, product_, p_.b_hr,
                      Cell::kActivatesOutput ? p_.extras->output_activation : Activation::kIdentity, p_.hy, output(s),
                      p_.output_stride, zoneout_of_step(p_.extras, p_.steps, s, p_.dims).h},
                     queue_.stream);
  }

  void enter(int64_t s) const {
    const Extras<T, A>& extras = *p_.extras;
    const int64_t cell_size = extras.reset_c ? hidden_ : 0;
    const EnterStepParams<T> params{rows_of_step(p_.steps, s),
                                    cuts_of_step(p_.extras, p_.steps, s),
                                    recurrent_,
                                    cell_size,
                                    extras.reset_h,
                                    extras.reset_c,
                                    extras.h_mask,
                                    p_.hy,
                                    p_.cell,
                                    masked_};
    launch_pointwise(enter_step<T>, p_.steps.rows(s), recurrent_ + cell_size, params, queue_.stream);
  }

  // The step's second product takes the place of the first, which the cells have read.
  void multiply_operand(int64_t rows, const Matrix<const T>& weight) const {
    gemm<T, A>({product_, rows, weight.rows, weight.rows}, {operand_, rows, hidden_, hidden_}, weight.transposed(),
               false, queue_);
  }

  CellForwardParams<T> cell_params(int64_t s) const {
    const int64_t first = p_.steps.offset(s);
    const bool projected = p_.dims.projected;
    CellForwardParams<T> params{};
    params.rows = rows_of_step(p_.steps, s);
    params.hidden_size = hidden_;
    params.keep = p_.keep;
    params.product = product_;
    params.b_ih = p_.b_ih;
    params.b_hh = p_.b_hh;
    params.unit_weights = p_.unit_weights;
    params.channels = p_.channels + first * p_.channel_stride;
    params.channel_stride = p_.channel_stride;
    params.cell = p_.cell;
    params.cells = p_.keep && Cell::kHasCellState ? p_.cells + first * hidden_ : nullptr;
    params.h = projected ? nullptr : p_.hy;
    params.output = projected ? nullptr : output(s);
    params.output_stride = p_.output_stride;
    params.operand = operand_size(p_.dims) > 0 ? operand_ : nullptr;
    params.zoneout = zoneout_of_step(p_.extras, p_.steps, s, p_.dims);
    if (p_.extras) {
      params.h_mask = p_.extras->h_mask;
      params.activation = p_.extras->activation;
    }
    return params;
  }

  T* output(int64_t s) const { return p_.output + p_.steps.offset(s) * p_.output_stride; }

  const Forward<T>& p_;
  const Queue& queue_;
  const int64_t hidden_, recurrent_;
  A* const product_;  // (B, G*H), then (B, P)
  T* const operand_;  // (B, H) of the second product, if there is one
  T* const masked_;   // (B, K) or null: see EnterStepParams
};

}  // namespace fastrnn::cuda
