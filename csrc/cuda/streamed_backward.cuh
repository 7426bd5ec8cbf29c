// The streamed path, backward: at every step the cells' derivatives, a thread for each unit, then a product of the
// gates' gradients and w_hh.
#pragma once

#include <limits>

#include "../cells/cell.h"
#include "extras.cuh"
#include "gemm.h"
#include "numbers.cuh"
#include "pointwise.cuh"

namespace fastrnn::cuda {

// One step. Pointers to what differs from step to step point to its first row, those `_before` to that of the step
// before.
template <class T>
struct CellBackwardParams {
  using A = Accumulator<T>;

  StepRows rows, rows_before;
  int64_t hidden_size;                 // H
  const T* channels;                   // (rows, C*H), or null where the cell keeps none
  const A *cells, *cells_before, *cx;  // (rows, H), (rows, H), (B, H); null without a cell state
  const T *output, *output_before;     // (rows, output_stride)
  int64_t output_stride;
  const T* hx;           // (B, H)
  const T* grad_output;  // (rows, grad_output_stride) or null for zeros
  int64_t grad_output_stride;
  A* grad_h;  // (B, H): in dh_t but for grad_output, out what of dh_{t-1} bypasses w_hh; null with a projection
  const A* grad_unprojected;  // (rows, H): dh_t before the projection; null without one
  A* grad_c;                  // (B, H): in dc_t, out dc_{t-1}; null without a cell state
  T* grad_channels;           // (rows, C*H)
  const T* unit_weights;
  A* grad_unit_weights;  // (B, kUnitWeights * H): gradients are added
  T* unprojected;        // (rows, H): h_t before the projection, or null
  Zoneout<T> zoneout;
  StepCuts cuts;
  const T* reset_h;     // (B, H) and
  const A* reset_c;     // (B, H): what rows behind a cut started from
  const T* grad_cells;  // (rows, grad_cells_stride): part of dc_t, or null
  int64_t grad_cells_stride;
};

template <class Cell, class T>
__global__ void cell_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t hidden = p.hidden_size;
  const auto [row, unit] = element_of_thread(hidden);
  if (!p.rows.include(row)) return;
  const bool from_start = !p.rows_before.include(row);
  const bool reset = p.cuts.before(row) == kCutState;
  const int64_t state = row * hidden + unit, channel = row * Cell::kChannels * hidden + unit;
  Step<A, Cell::kChannels> step;
  StepGrad<A, Cell::kChannels> grad;
  const UnitWeights<Cell, T> unit_weights(p.unit_weights, hidden, unit);
  step.unit_weights = unit_weights.values;
  A kept_grad_h{}, kept_grad_c{};  // of what zoneout keeps of h and c
  if (p.grad_unprojected) {
    grad.h = p.grad_unprojected[state];
  } else {
    grad.h = p.grad_h[state];
    if (p.grad_output) grad.h += widen(p.grad_output[row * p.grad_output_stride + unit]);
    if (p.zoneout.h.any()) {
      kept_grad_h = p.zoneout.h.at(state) * grad.h;
      grad.h -= kept_grad_h;
    }
  }
  if constexpr (Cell::kKeepsChannels) {
    for (int c = 0; c < Cell::kChannels; ++c) step.channels[c] = widen(p.channels[channel + c * hidden]);
  }
  if (Cell::kReadsPreviousH || (Cell::kReadsH && p.zoneout.h.any())) {
    step.h_prev = widen(reset        ? p.reset_h[state]
                        : from_start ? p.hx[state]
                                     : p.output_before[row * p.output_stride + unit]);
  }
  if constexpr (Cell::kReadsH) {
    step.h = widen(p.output[row * p.output_stride + unit]);
    if (p.zoneout.h.any()) step.h = p.zoneout.h.candidate(step.h, step.h_prev);
  }
  if constexpr (Cell::kHasCellState) {
    step.c_prev = reset ? p.reset_c[state] : from_start ? p.cx[state] : p.cells_before[state];
    step.c = p.cells[state];
    grad.c = p.grad_c[state];
    if (p.grad_cells) grad.c += widen(p.grad_cells[row * p.grad_cells_stride + unit]);
    if (p.zoneout.c.any()) {
      step.c = Cell::candidate_c(step);
      kept_grad_c = p.zoneout.c.at(state) * grad.c;
      grad.c -= kept_grad_c;
    }
    if (p.unprojected) p.unprojected[state] = narrow<T>(Cell::hidden(step));
  }
  Cell::backward(step, grad);
  for (int c = 0; c < Cell::kChannels; ++c) p.grad_channels[channel + c * hidden] = narrow<T>(grad.channels[c]);
  if constexpr (Cell::kUnitWeights > 0) {
    A* sums = p.grad_unit_weights + row * Cell::kUnitWeights * hidden + unit;
    for (int w = 0; w < Cell::kUnitWeights; ++w) sums[w * hidden] += Cell::unit_weight_grad(w, step, grad);
  }
  if (p.grad_h) p.grad_h[state] = (Cell::kCarriesH ? grad.h : A{}) + kept_grad_h;
  if constexpr (Cell::kHasCellState) p.grad_c[state] = grad.c + kept_grad_c;
}

// One step of a layer with a projection, before the product with w_hr.
template <class T>
struct GatherGradParams {
  StepRows rows;
  int64_t columns;       // P
  const T* grad_output;  // (rows, grad_output_stride) or null for zeros
  int64_t grad_output_stride;
  Accumulator<T>* grad_h;  // (B, P): in dh_t but for grad_output, out what of dh_{t-1} bypasses w_hh
  T* grad_projected;       // (rows, P): dh_t, but for what bypasses the step
  Kept<T> kept_h;
};

template <class T>
__global__ void gather_grad(const GatherGradParams<T> p) {
  const auto [row, column] = element_of_thread(p.columns);
  if (!p.rows.include(row)) return;
  const int64_t state = row * p.columns + column;
  Accumulator<T> grad = p.grad_h[state];
  if (p.grad_output) grad += widen(p.grad_output[row * p.grad_output_stride + column]);
  Accumulator<T> kept{};
  if (p.kept_h.any()) kept = p.kept_h.at(state) * grad;
  p.grad_projected[state] = narrow<T>(grad - kept);
  p.grad_h[state] = kept;
}

template <class Cell, class T>
class StreamedBackward {
  using A = Accumulator<T>;

 public:
  static int64_t scratch_size(const Backward<T>& params) {
    const int64_t through_w_hh = masks_h(params) ? params.dims.batch * params.dims.recurrent_size : 0;
    return (unprojected_size(params.dims) + through_w_hh) * static_cast<int64_t>(sizeof(A) / sizeof(T));
  }

  static void run(const Backward<T>& params, const Queue& queue) {
    const StreamedBackward pass(params, queue);
    for (int64_t s = params.steps.steps - 1; s >= 0; --s) {
      if (params.steps.rows(s) > 0) pass.run_step(s);
    }
  }

 private:
  StreamedBackward(const Backward<T>& params, const Queue& queue)
      : p_(params),
        queue_(queue),
        hidden_(params.dims.hidden_size),
        recurrent_(params.dims.recurrent_size),
        grad_unprojected_(params.dims.projected ? reinterpret_cast<A*>(params.scratch) : nullptr),
        through_w_hh_(masks_h(params) ? reinterpret_cast<A*>(params.scratch) + unprojected_size(params.dims)
                                      : nullptr) {}

  static int64_t unprojected_size(const Dims& dims) { return dims.projected ? dims.batch * dims.hidden_size : 0; }
  static bool masks_h(const Backward<T>& params) { return params.extras && params.extras->h_mask; }

  void run_step(int64_t s) const {
    if (p_.dims.projected) run_projection(s);
    run_cell(s);
    run_recurrent(s);
    if (p_.extras && (p_.extras->cuts || through_w_hh_ || p_.extra_grads->clip < std::numeric_limits<A>::infinity())) {
      run_pass_back(s);
    }
  }

  void run_projection(int64_t s) const {
    const int64_t rows = p_.steps.rows(s);
    T* const grad_projected = p_.grad_projected + p_.steps.offset(s) * recurrent_;
    launch_pointwise(gather_grad<T>, rows, recurrent_,
                     {rows_of_step(p_.steps, s), recurrent_, grad_output(s), p_.grad_output_stride, p_.grad_h,
                      grad_projected, zoneout_of_step(p_.extras, p_.steps, s, p_.dims).h},
                     queue_.stream);
    gemm<T, A>({grad_unprojected_, rows, hidden_, hidden_}, {grad_projected, rows, recurrent_, recurrent_},
               {p_.w_hr, recurrent_, hidden_, hidden_}, false, queue_);
  }

  void run_cell(int64_t s) const {
    const int64_t first = p_.steps.offset(s), first_before = p_.steps.offset(s - 1);
    const bool projected = p_.dims.projected;
    CellBackwardParams<T> params{};
    params.rows = rows_of_step(p_.steps, s);
    params.rows_before = rows_of_step(p_.steps, s - 1);
    params.hidden_size = hidden_;
    if constexpr (Cell::kKeepsChannels) params.channels = p_.channels + first * Cell::kChannels * hidden_;
    if constexpr (Cell::kHasCellState) {
      params.cells = p_.cells + first * hidden_;
      params.cells_before = p_.cells + first_before * hidden_;
      params.cx = p_.cx;
      params.grad_c = p_.grad_c;
    }
    params.output = p_.output + first * p_.output_stride;
    params.output_before = p_.output + first_before * p_.output_stride;
    params.output_stride = p_.output_stride;
    params.hx = p_.hx;
    params.grad_output = grad_output(s);
    params.grad_output_stride = p_.grad_output_stride;
    params.grad_h = projected ? nullptr : p_.grad_h;
    params.grad_unprojected = grad_unprojected_;
    params.grad_channels = grad_channels(s);
    params.unit_weights = p_.unit_weights;
    params.grad_unit_weights = p_.grad_unit_weights;
    params.unprojected = projected ? p_.operand + first * hidden_ : nullptr;
    if (p_.extras) add_extras(s, params);
    launch_pointwise(cell_backward<Cell, T>, p_.steps.rows(s), hidden_, params, queue_.stream);
  }

  void add_extras(int64_t s, CellBackwardParams<T>& params) const {
    const ExtraGrads<T, A>& grads = *p_.extra_grads;
    params.zoneout = zoneout_of_step(p_.extras, p_.steps, s, p_.dims);
    params.cuts = cuts_of_step(p_.extras, p_.steps, s);
    params.reset_h = p_.extras->reset_h;
    params.reset_c = p_.extras->reset_c;
    params.grad_cells = grads.cells ? grads.cells + p_.steps.offset(s) * grads.cells_stride : nullptr;
    params.grad_cells_stride = grads.cells_stride;
  }

  // dh_{t-1} += the gates' gradients W_hh, or where h is masked that by itself. Rows that do not run, of which the GPU
  // alone knows, add their zeros.
  void run_recurrent(int64_t s) const {
    const int64_t rows = p_.steps.rows(s), columns = Cell::kChannels * hidden_;
    const Matrix<A> out{through_w_hh_ ? through_w_hh_ : p_.grad_h, rows, recurrent_, recurrent_};
    const Matrix<const T> grads{grad_channels(s), rows, columns, columns};
    const Matrix<const T> w_hh{p_.w_hh, Cell::kGates * hidden_, recurrent_, recurrent_};
    // Neighbouring gates whose gradients lie side by side share a product.
    for (int gate = 0, end; gate < Cell::kGates; gate = end) {
      const int channel = Cell::recurrent_channel(gate);
      for (end = gate + 1; end < Cell::kGates && Cell::recurrent_channel(end) == channel + end - gate;) ++end;
      gemm<T, A>(out, grads.column_range(channel * hidden_, (channel + end - gate) * hidden_),
                 w_hh.row_range(gate * hidden_, end * hidden_), !through_w_hh_ || gate > 0, queue_);
    }
  }

  void run_pass_back(int64_t s) const {
    const ExtraGrads<T, A>& grads = *p_.extra_grads;
    const int64_t cell_size = Cell::kHasCellState ? hidden_ : 0;
    const PassBackParams<T> params{rows_of_step(p_.steps, s),
                                   cuts_of_step(p_.extras, p_.steps, s),
                                   recurrent_,
                                   cell_size,
                                   grads.clip,
                                   p_.extras->h_mask,
                                   through_w_hh_,
                                   p_.grad_h,
                                   p_.grad_c,
                                   grads.reset_h,
                                   grads.reset_c};
    launch_pointwise(pass_back<T>, p_.steps.rows(s), recurrent_ + cell_size, params, queue_.stream);
  }

  const T* grad_output(int64_t s) const {
    return p_.grad_output ? p_.grad_output + p_.steps.offset(s) * p_.grad_output_stride : nullptr;
  }
  T* grad_channels(int64_t s) const { return p_.grad_channels + p_.steps.offset(s) * Cell::kChannels * hidden_; }

  const Backward<T>& p_;
  const Queue& queue_;
  const int64_t hidden_, recurrent_;
  A* const grad_unprojected_;  // (B, H) or null
  A* const through_w_hh_;      // (B, K) or null: see PassBackParams
};

}  // namespace fastrnn::cuda
