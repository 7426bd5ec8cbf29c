// The streamed path, forward: at every step a GEMM of h_{t-1} with w_hh, then the cells.
#pragma once

#include "../common/gemm.h"
#include "cell_forward.cuh"
#include "norm_forward.cuh"

namespace fastrnn::cuda {

// One step of a layer with a projection, after the GEMM with w_hr.
template <class T>
struct ProjectionEpilogueParams {
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
__global__ void projection_epilogue(const ProjectionEpilogueParams<T> p) {
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
    return (product + normal_size(dims) + candidate_size(dims)) * static_cast<int64_t>(sizeof(A) / sizeof(T)) +
           operand_size(dims) + masked;
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
        input_(product_ + params.dims.batch * Cell::kGates * hidden_),
        candidate_c_(input_ + normal_size(params.dims)),
        operand_(reinterpret_cast<T*>(candidate_c_ + candidate_size(params.dims))),
        masked_(masks_h(params) ? operand_ + operand_size(params.dims) : nullptr) {}

  static int64_t operand_size(const Dims& dims) {
    return dims.projected || Cell::kSecondPassGates > 0 ? dims.batch * dims.hidden_size : 0;
  }
  static int64_t normal_size(const Dims& dims) {
    return kNormalizes<Cell> ? dims.batch * Cell::kGates * dims.hidden_size : 0;
  }
  static int64_t candidate_size(const Dims& dims) { return kNormalizesCell<Cell> ? dims.batch * dims.hidden_size : 0; }
  static bool masks_h(const Forward<T>& params) { return params.extras && params.extras->h_mask; }

  void run_step(int64_t s) const {
    const int64_t rows = p_.steps.rows(s), gate_columns = (Cell::kGates - Cell::kSecondPassGates) * hidden_;
    if (p_.extras && (p_.extras->reset_h || masked_)) enter(s);
    const Matrix<const T> h{masked_ ? masked_ : p_.hy, rows, recurrent_, recurrent_};
    const Matrix<const T> w_hh{p_.w_hh, gate_columns, recurrent_, recurrent_};
    gemm<T, A>({product_, rows, gate_columns, gate_columns}, h, w_hh.transposed(), false, queue_);
    if constexpr (Cell::kSecondPassGates > 0) {
      launch_pointwise(cell_first_pass<Cell, T>, rows, hidden_, cell_params(s), queue_.stream);
      multiply_operand(rows, {p_.w_hh + gate_columns * recurrent_, hidden_, recurrent_, recurrent_});
      launch_pointwise(cell_second_pass<Cell, T>, rows, hidden_, cell_params(s), queue_.stream);
    } else {
      const CellForwardParams<T> params = cell_params(s);
      if constexpr (kNormalizes<Cell>) launch_rows(normalize_products<Cell, T>, rows, params, queue_.stream);
      launch_pointwise(cell_forward<Cell, T>, rows, hidden_, params, queue_.stream);
      if constexpr (kNormalizesCell<Cell>) launch_rows(finish_normalized_c<Cell, T>, rows, params, queue_.stream);
    }
    if (!p_.dims.projected) return;
    multiply_operand(rows, {p_.w_hr, recurrent_, hidden_, hidden_});
    launch_pointwise(projection_epilogue<T>, rows, recurrent_,
                     {rows_of_step(p_.steps, s), recurrent_, product_, p_.b_hr,
                      Cell::kActivatesOutput ? p_.extras->output_activation : Activation::kIdentity, p_.hy, output(s),
                      p_.output_stride, zoneout_of_step(p_.extras, p_.steps, s, p_.dims).h},
                     queue_.stream);
  }

  void enter(int64_t s) const {
    const Extras<T, A>& extras = *p_.extras;
    const StateColumns columns{recurrent_, hidden_, extras.reset_h ? Cell::kCellStates : 0};
    const EnterStepParams<T> params{.rows = rows_of_step(p_.steps, s),
                                    .cuts = cuts_of_step(p_.extras, p_.steps, s),
                                    .columns = columns,
                                    .reset_h = extras.reset_h,
                                    .reset_cell = extras.reset_cell,
                                    .h_mask = extras.h_mask,
                                    .h = p_.hy,
                                    .cell = p_.cell,
                                    .masked = masked_};
    launch_pointwise(enter_step<T>, p_.steps.rows(s), columns.count(), params, queue_.stream);
  }

  // The step's second GEMM reuses the memory of the first one's result, which the cells have read by then.
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
    params.input = input_;
    params.b_ih = p_.b_ih;
    params.b_hh = p_.b_hh;
    params.per_unit_weights = p_.per_unit_weights;
    params.saved = p_.saved + first * p_.saved_stride;
    params.saved_stride = p_.saved_stride;
    params.cell = p_.cell;
    for (int k = 0; p_.keep && k < Cell::kCellStates; ++k) params.cells[k] = p_.cells[k] + first * hidden_;
    params.h = projected ? nullptr : p_.hy;
    params.output = projected ? nullptr : output(s);
    params.output_stride = p_.output_stride;
    params.operand = operand_size(p_.dims) > 0 ? operand_ : nullptr;
    params.candidate_c = candidate_c_;
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
  A* const product_;      // (B, G*H), then (B, P)
  A* const input_;        // (B, G*H), with layer normalisation
  A* const candidate_c_;  // (B, H), if c is normalised
  T* const operand_;      // (B, H): operand of the second GEMM, if there is one
  T* const masked_;       // (B, K) or null: see EnterStepParams
};

}  // namespace fastrnn::cuda
