// Layer normalisation on the streamed path, backward: around the cells' derivatives, a warp for each batch row.
#pragma once

#include "cell_backward.cuh"
#include "norm_rows.cuh"

namespace fastrnn::cuda {

// Before the cells: from the gradient of h_t = o * tanh(normal c_t) to that of the output gate's sum, and dc.
template <class Cell, class T>
__global__ void hidden_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  using Inner = InnerCell<Cell>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size;
  if (!p.rows.include(row)) return;
  const auto c = [&](int64_t unit) { return load_step<Cell>(p, row, unit).c; };
  const T *gain = p.unit_weights + Cell::kCellGain * hidden, *bias = p.unit_weights + Cell::kCellBias * hidden;
  const T* output_gate = p.channels + (row * Cell::kChannels + Cell::kOutput) * hidden;
  T* grad_output_gate = p.grad_channels + (row * Cell::kChannels + Cell::kOutput) * hidden;
  A *dc = p.dc + row * hidden, *grad_weights = p.grad_unit_weights + row * Cell::kUnitWeights * hidden;
  const RowNorm<A> norm = norm_of<A>(hidden, c);
  A sum{}, products{};
  for_each_column(hidden, [&](int64_t unit) {
    const int64_t state = row * hidden + unit;
    const A normal = norm(c(unit)), o = widen(output_gate[unit]);
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
                  [&](int64_t unit) { dc[unit] = norm.backward(dc[unit], norm(c(unit)), mean_grad, mean_product); });
}

// After the cells: from the gradients of what the product became to those of the product.
template <class Cell, class T>
__global__ void product_backward(const CellBackwardParams<T> p) {
  using A = Accumulator<T>;
  using Inner = InnerCell<Cell>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size, columns = Cell::kGates * hidden;
  if (!p.rows.include(row)) return;
  const T* product = p.channels + (row * Cell::kChannels + Cell::kProduct) * hidden;
  T* grad_channels = p.grad_channels + row * Cell::kChannels * hidden;
  A* grad_weights = p.grad_unit_weights + row * Cell::kUnitWeights * hidden;
  const RowNorm<A> norm = norm_of<A>(columns, [&](int64_t column) { return widen(product[column]); });
  const auto through_gain = [&](int gate, int64_t unit) {
    return widen(grad_channels[Inner::recurrent_channel(gate) * hidden + unit]) *
           widen(p.unit_weights[(Cell::kGain + gate) * hidden + unit]);
  };
  A sum{}, products{};
  for_each_column(hidden, [&](int64_t unit) {
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      const A normal = norm(widen(product[gate * hidden + unit])), grad = through_gain(gate, unit);
      const A arrived = widen(grad_channels[Inner::recurrent_channel(gate) * hidden + unit]);
      grad_weights[(Cell::kGain + gate) * hidden + unit] += arrived * normal;
      if (gate == Inner::kApartBias) grad_weights[Cell::kBias * hidden + unit] += arrived;
      sum += grad;
      products += grad * normal;
    }
  });
  const A mean_grad = sum_of_warp(sum) / static_cast<A>(columns);
  const A mean_product = sum_of_warp(products) / static_cast<A>(columns);
  for_each_column(hidden, [&](int64_t unit) {
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      const A normal = norm(widen(product[gate * hidden + unit]));
      grad_channels[(Cell::kProduct + gate) * hidden + unit] =
          narrow<T>(norm.backward(through_gain(gate, unit), normal, mean_grad, mean_product));
    }
  });
}

}  // namespace fastrnn::cuda
