// Layer normalisation on the streamed path, forward: around the cells of a step, a warp for each batch row.
#pragma once

#include "cell_forward.cuh"
#include "norm_rows.cuh"

namespace fastrnn::cuda {

// Before the cells: the product becomes its normalised self, and what it was is kept for backward.
template <class Cell, class T>
__global__ void normalize_product(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size, columns = Cell::kGates * hidden;
  if (!p.rows.include(row)) return;
  A* product = p.product + row * columns;
  T* kept = p.keep ? p.channels + row * p.channel_stride + Cell::kProduct * hidden : nullptr;
  const RowNorm<A> norm = norm_of<A>(columns, [&](int64_t column) { return product[column]; });
  for_each_column(columns, [&](int64_t column) {
    if (kept) kept[column] = narrow<T>(product[column]);
    A value = norm(product[column]) * widen(p.unit_weights[Cell::kGain * hidden + column]);
    const int64_t unit = column - InnerCell<Cell>::kApartBias * hidden;
    if (InnerCell<Cell>::kApartBias >= 0 && unit >= 0 && unit < hidden) {
      value += widen(p.unit_weights[Cell::kBias * hidden + unit]);
    }
    product[column] = value;
  });
}

// After the cells: h_t, of normalised c_t.
template <class Cell, class T>
__global__ void finish_normalized_c(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size;
  if (!p.rows.include(row)) return;
  const A* c = p.candidate_c + row * hidden;
  const T* output_gate = p.channels + row * p.channel_stride + Cell::kOutput * hidden;
  const T *gain = p.unit_weights + Cell::kCellGain * hidden, *bias = p.unit_weights + Cell::kCellBias * hidden;
  const RowNorm<A> norm = norm_of<A>(hidden, [&](int64_t unit) { return c[unit]; });
  for_each_column(hidden, [&](int64_t unit) {
    const A normal = norm(c[unit]) * widen(gain[unit]) + widen(bias[unit]);
    hand_on_h(p, row, unit, InnerCell<Cell>::hidden_of(widen(output_gate[unit]), normal));
  });
}

}  // namespace fastrnn::cuda
