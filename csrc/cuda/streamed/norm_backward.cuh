// Layer normalisation on the streamed path, backward: kernels before and after the cells' derivatives, one warp per
// batch row.
#pragma once

#include "cell_backward.cuh"
#include "norm_rows.cuh"

namespace fastrnn::cuda {

// Before the cells: from the gradient of h_t = o * tanh(normal c_t) to that of the output gate's pre-activation, and
// dc.
template <class Cell, class T>
__global__ void hidden_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  using Inner = InnerCell<Cell>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size;
  if (!p.rows.include(row)) return;
  const T *gain = p.per_unit_weights + Cell::kCellGain * hidden, *bias = p.per_unit_weights + Cell::kCellBias * hidden;
  const int64_t output_slot = (row * Cell::kSavedValues + Cell::kInner + Cell::kOutput) * hidden;
  const T* output_gate = p.saved + output_slot;
  T* grad_output_gate = p.grad_saved + output_slot;
  A *c = p.candidate_c + row * hidden, *dc = p.dc + row * hidden;
  A* grad_weights = p.grad_per_unit_weights + row * Cell::kPerUnitWeights * hidden;
  for_each_column(hidden, [&](int64_t unit) { c[unit] = load_step<Cell>(p, row, unit).cell[Cell::kC]; });
  const RowNorm<A> norm = norm_of<A>(hidden, [&](int64_t unit) { return c[unit]; });
  A sum{}, products{};
  for_each_column(hidden, [&](int64_t unit) {
    const int64_t state = row * hidden + unit;
    const A normal = norm(c[unit]), o = widen(output_gate[unit]);
    const A inner = normal * widen(gain[unit]) + widen(bias[unit]);
    const A grad_h = p.grad_operand ? p.grad_operand[state] : ArrivedGrad<T>(p, row, unit).grad;
    A of_output;
    const A grad = Inner::hidden_backward(o, inner, grad_h, of_output);
    grad_output_gate[unit] = narrow<T>(of_output);
    if (p.operand) p.operand[state] = narrow<T>(Inner::hidden_of(o, inner));
    grad_weights[Cell::kCellGain * hidden + unit] += grad * normal;
    grad_weights[Cell::kCellBias * hidden + unit] += grad;
    dc[unit] = grad * widen(gain[unit]);
    sum += dc[unit];
    products += dc[unit] * normal;
  });
  const A mean_grad = sum_of_warp(sum) / static_cast<A>(hidden);
  const A mean_product = sum_of_warp(products) / static_cast<A>(hidden);
  for_each_column(hidden,
                  [&](int64_t unit) { dc[unit] = norm.backward(dc[unit], norm(c[unit]), mean_grad, mean_product); });
}

// Backward of one of a row's two GEMM results; source(gate) is the slot with the gradient of its normalised value.
template <class Cell, class T, class Source>
__device__ void product_backward(const CellBackwardParams<T>& p, int64_t row, int product_slot, int gain,
                                 const Source& source) {
  using A = Accumulator<T>;
  const int64_t hidden = p.hidden_size, columns = Cell::kGates * hidden, first = row * Cell::kSavedValues * hidden;
  const T *product = p.saved + first + product_slot * hidden, *gains = p.per_unit_weights + gain * hidden;
  T *grad_saved = p.grad_saved + first, *grad_product = grad_saved + product_slot * hidden;
  A* grad_gains = p.grad_per_unit_weights + (row * Cell::kPerUnitWeights + gain) * hidden;
  const RowNorm<A> norm = norm_of<A>(columns, [&](int64_t column) { return widen(product[column]); });
  const auto grad_of = [&](int gate, int64_t unit) { return widen(grad_saved[source(gate) * hidden + unit]); };
  A sum{}, products{};
#pragma unroll 1
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    for_each_column(hidden, [&](int64_t unit) {
      const int64_t column = gate * hidden + unit;
      const A normal = norm(widen(product[column])), grad = grad_of(gate, unit);
      grad_gains[column] += grad * normal;
      sum += grad * widen(gains[column]);
      products += grad * widen(gains[column]) * normal;
    });
  }
  const A mean_grad = sum_of_warp(sum) / static_cast<A>(columns);
  const A mean_product = sum_of_warp(products) / static_cast<A>(columns);
#pragma unroll 1
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    for_each_column(hidden, [&](int64_t unit) {
      const int64_t column = gate * hidden + unit;
      const A grad = grad_of(gate, unit) * widen(gains[column]);
      grad_product[column] = narrow<T>(norm.backward(grad, norm(widen(product[column])), mean_grad, mean_product));
    });
  }
}

// After the cells: from the gradients of the normalised GEMM results to those of the results.
template <class Cell, class T>
__global__ void products_backward(const CellBackwardParams<T> p) {
  const int64_t row = row_of_warp();
  if (!p.rows.include(row)) return;
  product_backward<Cell>(p, row, 0, Cell::kInputGain, [](int gate) { return Cell::kInner + gate; });
  product_backward<Cell>(p, row, Cell::kProduct, Cell::kGain,
                         [](int gate) { return Cell::kInner + InnerCell<Cell>::recurrent_slot(gate); });
}

}  // namespace fastrnn::cuda
