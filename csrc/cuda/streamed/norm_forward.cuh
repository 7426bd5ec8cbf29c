// Layer normalisation on the streamed path, forward: kernels before and after the cells of a step, one warp per batch
// row.
#pragma once

#include "cell_forward.cuh"
#include "norm_rows.cuh"

namespace fastrnn::cuda {

// Before the cells: normalises both GEMM results, and saves the recurrent one as it was for backward.
template <class Cell, class T>
__global__ void normalize_products(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size, columns = Cell::kGates * hidden;
  if (!p.rows.include(row)) return;
  const T* input = p.saved + row * p.saved_stride;
  A *product = p.product + row * columns, *normal_input = p.input + row * columns;
  T* kept = p.keep ? p.saved + row * p.saved_stride + Cell::kProduct * hidden : nullptr;
  const T *input_gain = p.per_unit_weights + Cell::kInputGain * hidden,
          *gain = p.per_unit_weights + Cell::kGain * hidden;
  const RowNorm<A> input_norm = norm_of<A>(columns, [&](int64_t column) { return widen(input[column]); });
  const RowNorm<A> norm = norm_of<A>(columns, [&](int64_t column) { return product[column]; });
  for_each_column(columns, [&](int64_t column) {
    if (kept) kept[column] = narrow<T>(product[column]);
    normal_input[column] = input_norm(widen(input[column])) * widen(input_gain[column]);
    product[column] = norm(product[column]) * widen(gain[column]);
  });
}

// After the cells: h_t, from the normalised c_t.
template <class Cell, class T>
__global__ void finish_normalized_c(const CellForwardParams<T> p) {
  using A = Accumulator<T>;
  const int64_t row = row_of_warp(), hidden = p.hidden_size;
  if (!p.rows.include(row)) return;
  const A* c = p.candidate_c + row * hidden;
  const T* output_gate = inner_saved<Cell>(p, row) + Cell::kOutput * hidden;
  const T *gain = p.per_unit_weights + Cell::kCellGain * hidden, *bias = p.per_unit_weights + Cell::kCellBias * hidden;
  const RowNorm<A> norm = norm_of<A>(hidden, [&](int64_t unit) { return c[unit]; });
  for_each_column(hidden, [&](int64_t unit) {
    const A normal = norm(c[unit]) * widen(gain[unit]) + widen(bias[unit]);
    hand_on_h(p, row, unit, InnerCell<Cell>::hidden_of(widen(output_gate[unit]), normal));
  });
}

}  // namespace fastrnn::cuda
