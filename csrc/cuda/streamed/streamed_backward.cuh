// The streamed path, backward: at every step the cells' derivatives, then a GEMM of the gates' gradients with w_hh.
#pragma once

#include <limits>

#include "../common/gemm.h"
#include "cell_backward.cuh"
#include "norm_backward.cuh"

namespace fastrnn::cuda {

// One step of a layer with a projection, before the GEMM with w_hr.
template <class T>
struct GatherGradParams {
  StepRows rows;
  int64_t columns;       // P
  const T* grad_output;  // (rows, grad_output_stride) or null for zeros
  int64_t grad_output_stride;
  Accumulator<T>* grad_h;  // (B, P): in dh_t without grad_output, out the part of dh_{t-1} that bypasses w_hh
  T* grad_projected;       // (rows, P): dh_t, without what bypasses the step
  const T* output;         // (rows, grad_output_stride)
  Activation activation;   // of the output
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
  if (p.kept_h.any()) kept = take_kept(p.kept_h.at(state), grad);
  const Accumulator<T> output = widen(p.output[row * p.grad_output_stride + column]);
  p.grad_projected[state] = narrow<T>(activate_backward(p.activation, output, grad));
  p.grad_h[state] = kept;
}

template <class Cell, class T>
class StreamedBackward {
  using A = Accumulator<T>;

 public:
  static int64_t scratch_size(const Backward<T>& params) {
    const int64_t through_w_hh = masks_h(params) ? params.dims.batch * params.dims.recurrent_size : 0;
    return (operand_size(params.dims) + dc_size(params.dims) + through_w_hh) *
           static_cast<int64_t>(sizeof(A) / sizeof(T));
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
        grad_operand_(operand_size(params.dims) > 0 ? reinterpret_cast<A*>(params.scratch) : nullptr),
        dc_(reinterpret_cast<A*>(params.scratch) + operand_size(params.dims)),
        through_w_hh_(masks_h(params) ? dc_ + dc_size(params.dims) : nullptr) {}

  // Gates whose gradients the recurrent GEMM takes.
  static constexpr int kFirstPassGates = Cell::kGates - Cell::kSecondPassGates;

  static int64_t operand_size(const Dims& dims) {
    return dims.projected || Cell::kSecondPassGates > 0 ? dims.batch * dims.hidden_size : 0;
  }
  static int64_t dc_size(const Dims& dims) { return kNormalizesCell<Cell> ? 2 * dims.batch * dims.hidden_size : 0; }
  static bool masks_h(const Backward<T>& params) { return params.extras && params.extras->h_mask; }

  void run_step(int64_t s) const {
    if (p_.dims.projected) run_projection(s);
    if constexpr (Cell::kSecondPassGates > 0) {
      run_second_pass_gate(s);
    } else {
      const int64_t rows = p_.steps.rows(s);
      const CellBackwardParams<T> params = cell_params(s);
      if constexpr (kNormalizesCell<Cell>) launch_rows(hidden_backward<Cell, T>, rows, params, queue_.stream);
      launch_pointwise(cell_backward<Cell, T>, rows, hidden_, params, queue_.stream);
      if constexpr (kNormalizes<Cell>) launch_rows(products_backward<Cell, T>, rows, params, queue_.stream);
    }
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
                      grad_projected, p_.output + p_.steps.offset(s) * p_.output_stride,
                      Cell::kActivatesOutput ? p_.extras->output_activation : Activation::kIdentity,
                      zoneout_of_step(p_.extras, p_.steps, s, p_.dims).h},
                     queue_.stream);
    gemm<T, A>({grad_operand_, rows, hidden_, hidden_}, {grad_projected, rows, recurrent_, recurrent_},
               {p_.w_hr, recurrent_, hidden_, hidden_}, false, queue_);
  }

  void run_second_pass_gate(int64_t s) const {
    const int64_t rows = p_.steps.rows(s), columns = Cell::kSavedValues * hidden_;
    const CellBackwardParams<T> params = cell_params(s);
    launch_pointwise(cell_second_pass_backward<Cell, T>, rows, hidden_, params, queue_.stream);
    const Matrix<const T> grads{grad_saved(s), rows, columns, columns};
    const Matrix<const T> w_hh{p_.w_hh, Cell::kGates * hidden_, recurrent_, recurrent_};
    gemm<T, A>({grad_operand_, rows, hidden_, hidden_}, grads.column_range(kFirstPassGates * hidden_, columns),
               w_hh.row_range(kFirstPassGates * hidden_, Cell::kGates * hidden_), false, queue_);
    launch_pointwise(cell_first_pass_backward<Cell, T>, rows, hidden_, params, queue_.stream);
  }

  CellBackwardParams<T> cell_params(int64_t s) const {
    const int64_t first = p_.steps.offset(s), first_before = p_.steps.offset(s - 1);
    const bool projected = p_.dims.projected;
    CellBackwardParams<T> params{};
    params.rows = rows_of_step(p_.steps, s);
    params.rows_before = rows_of_step(p_.steps, s - 1);
    params.hidden_size = hidden_;
    params.dc = dc_;
    params.candidate_c = dc_ + p_.dims.batch * hidden_;
    if constexpr (Cell::kReadsSaved) params.saved = p_.saved + first * Cell::kSavedValues * hidden_;
    for (int k = 0; k < Cell::kCellStates; ++k) {
      params.cells[k] = p_.cells[k] + first * hidden_;
      params.cells_before[k] = p_.cells[k] + first_before * hidden_;
    }
    params.cx = p_.cx;
    params.grad_cell = p_.grad_cell;
    params.output = p_.output + first * p_.output_stride;
    params.output_before = p_.output + first_before * p_.output_stride;
    params.output_stride = p_.output_stride;
    params.hx = p_.hx;
    params.grad_output = grad_output(s);
    params.grad_output_stride = p_.grad_output_stride;
    params.grad_h = projected ? nullptr : p_.grad_h;
    params.grad_operand = grad_operand_;
    params.grad_saved = grad_saved(s);
    params.per_unit_weights = p_.per_unit_weights;
    params.grad_per_unit_weights = p_.grad_per_unit_weights;
    params.operand = grad_operand_ ? p_.operand + first * hidden_ : nullptr;
    if (p_.extras) add_extras(s, params);
    return params;
  }

  void add_extras(int64_t s, CellBackwardParams<T>& params) const {
    const ExtraGrads<T, A>& grads = *p_.extra_grads;
    params.zoneout = zoneout_of_step(p_.extras, p_.steps, s, p_.dims);
    params.cuts = cuts_of_step(p_.extras, p_.steps, s);
    params.h_mask = p_.extras->h_mask;
    params.activation = p_.extras->activation;
    params.reset_h = p_.extras->reset_h;
    params.reset_cell = p_.extras->reset_cell;
    for (int k = 0; k < Cell::kCellStates; ++k) {
      params.grad_cells[k] = grads.cells[k] ? grads.cells[k] + p_.steps.offset(s) * grads.cells_stride : nullptr;
    }
    params.grad_cells_stride = grads.cells_stride;
  }

  // dh_{t-1} += gate gradients W_hh; if h is masked, the GEMM's result is stored separately. Rows that do not run,
  // which only the GPU knows, contribute zeros.
  void run_recurrent(int64_t s) const {
    const int64_t rows = p_.steps.rows(s), columns = Cell::kSavedValues * hidden_;
    const Matrix<A> out{through_w_hh_ ? through_w_hh_ : p_.grad_h, rows, recurrent_, recurrent_};
    const Matrix<const T> grads{grad_saved(s), rows, columns, columns};
    const Matrix<const T> w_hh{p_.w_hh, Cell::kGates * hidden_, recurrent_, recurrent_};
    // Adjacent gates whose gradients are contiguous share one GEMM.
    for (int gate = 0, end; gate < kFirstPassGates; gate = end) {
      const int slot = Cell::recurrent_slot(gate);
      for (end = gate + 1; end < kFirstPassGates && Cell::recurrent_slot(end) == slot + end - gate;) ++end;
      gemm<T, A>(out, grads.column_range(slot * hidden_, (slot + end - gate) * hidden_),
                 w_hh.row_range(gate * hidden_, end * hidden_), !through_w_hh_ || gate > 0, queue_);
    }
  }

  void run_pass_back(int64_t s) const {
    const ExtraGrads<T, A>& grads = *p_.extra_grads;
    const StateColumns columns{recurrent_, hidden_, Cell::kCellStates};
    const PassBackParams<T> params{.rows = rows_of_step(p_.steps, s),
                                   .cuts = cuts_of_step(p_.extras, p_.steps, s),
                                   .columns = columns,
                                   .clip = grads.clip,
                                   .h_mask = p_.extras->h_mask,
                                   .through_w_hh = through_w_hh_,
                                   .grad_h = p_.grad_h,
                                   .grad_cell = p_.grad_cell,
                                   .reset_h = grads.reset_h,
                                   .reset_cell = grads.reset_cell};
    launch_pointwise(pass_back<T>, p_.steps.rows(s), columns.count(), params, queue_.stream);
  }

  const T* grad_output(int64_t s) const {
    return p_.grad_output ? p_.grad_output + p_.steps.offset(s) * p_.grad_output_stride : nullptr;
  }
  T* grad_saved(int64_t s) const { return p_.grad_saved + p_.steps.offset(s) * Cell::kSavedValues * hidden_; }

  const Backward<T>& p_;
  const Queue& queue_;
  const int64_t hidden_, recurrent_;
  A* const grad_operand_;  // (B, H) or null
  A* const dc_;            // (B, H), if c is normalised, followed by as much for the candidate of c
  A* const through_w_hh_;  // (B, K) or null: see PassBackParams
};

}  // namespace fastrnn::cuda
