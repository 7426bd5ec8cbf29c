// GEMMs that read their weights unpacked: for calls where packing would take longer than multiplying.
#pragma once

#include "../tuning.h"
#include "panels.h"

namespace fastrnn::cpu {

constexpr int kDots = 4;

// sums[row][dot] = dot product of row `row` of `a` and row `dot` of the weights; kDots of them, or only the first few.
template <class Isa, class T, class W, int kRows>
FASTRNN_INLINE void multiply_dots(const T* a, int64_t a_stride, const W* weights, int dots, int64_t depth, T* sums,
                                  int64_t sums_stride) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  constexpr int kLanes = S::kLanes;
  V acc[kRows][kDots] = {};
  // Missing dots repeat the last one.
  const W* from[kDots];
#pragma GCC unroll 4
  for (int dot = 0; dot < kDots; ++dot) from[dot] = weights + smaller(dot, dots - 1) * depth;
  const auto add = [&](int64_t k, auto load) FASTRNN_INLINE_LAMBDA {
    V x[kRows];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) x[row] = load(a + row * a_stride + k);
#pragma GCC unroll 4
    for (int dot = 0; dot < kDots; ++dot) {
      __builtin_prefetch(from[dot] + kPrefetchRows * depth + k);
      const V w = load(from[dot] + k);
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) acc[row][dot] = Isa::multiply_add(x[row], w, acc[row][dot]);
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= depth; k += kLanes) {
    add(k, [](const auto* p) FASTRNN_INLINE_LAMBDA { return S::load(p); });
  }
  if (k < depth) {
    const int rest = static_cast<int>(depth - k);
    add(k, [rest](const auto* p) FASTRNN_INLINE_LAMBDA { return S::load(p, rest); });
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    T four[kDots];
    S::sum_lanes(four, acc[row]);
    for (int dot = 0; dot < dots; ++dot) sums[row * sums_stride + dot] = four[dot];
  }
}

template <class Isa, class T, class W, int kRows>
void multiply_few_rows(T* out, int64_t out_stride, const T* a, int64_t a_stride, const W* weights, int64_t columns,
                       int64_t depth) {
  int64_t column = 0;
  for (; column + kDots <= columns; column += kDots) {
    multiply_dots<Isa, T, W, kRows>(a, a_stride, weights + column * depth, kDots, depth, out + column, out_stride);
  }
  if (column < columns) {
    const int dots = static_cast<int>(columns - column);
    multiply_dots<Isa, T, W, kRows>(a, a_stride, weights + column * depth, dots, depth, out + column, out_stride);
  }
}

// out (rows, columns) = a (rows, depth) times the transpose of weights (columns, depth).
template <class Isa, class T, class W>
void multiply_rows(T* out, int64_t out_stride, const T* a, int64_t a_stride, int64_t rows, const W* weights,
                   int64_t columns, int64_t depth) {
  int64_t row = 0;
  for (; row + 2 <= rows; row += 2) {
    multiply_few_rows<Isa, T, W, 2>(out + row * out_stride, out_stride, a + row * a_stride, a_stride, weights, columns,
                                    depth);
  }
  if (row < rows) {
    multiply_few_rows<Isa, T, W, 1>(out + row * out_stride, out_stride, a + row * a_stride, a_stride, weights, columns,
                                    depth);
  }
}

// weight (kGates * units, depth), multiplied along its rows, as in forward; for the biases see Panels::pack_rows.
template <class Isa, class T, class W, int kGates>
struct RowsInPlace : PanelGrid<Isa, T, kGates> {
  using Grid = PanelGrid<Isa, T, kGates>;
  using Grid::depth, Grid::first_unit, Grid::kLanes, Grid::units, Grid::vectors_in;

  const W* weight;
  const T* bias_a;
  const T* bias_b;
  unsigned separate_biases;

  // As multiply_views, for an operand with a single run.
  template <class Epilogue>
  FASTRNN_INLINE void multiply(int64_t i, const Operand<T>& a, int64_t begin, int64_t end,
                               const Epilogue& epilogue) const {
    constexpr int kRows = 2;
    alignas(64) T sums[kRows * Grid::kWidth] = {};  // lanes past the last unit stay 0
    for (int64_t row = begin; row < end; row += kRows) {
      const int64_t rows = smaller(kRows, end - row);
      sum(i, a.data + row * a.stride, a.stride, rows, sums);
      this->apply_epilogue({i, i + 1}, row, rows, sums, epilogue);
    }
  }

 private:
  void sum(int64_t i, const T* a, int64_t a_stride, int64_t rows, T* sums) const {
    const int vectors = vectors_in(i);
    for (int v = 0; v < vectors; ++v) {
      const int gate = v % kGates;
      const int64_t unit = first_unit(i) + v / kGates * kLanes, first = gate * units + unit;
      const int64_t valid = smaller(kLanes, units - unit), stride = int64_t{vectors} * kLanes;
      T* out = sums + v * kLanes;
      multiply_rows<Isa, T, W>(out, stride, a, a_stride, rows, weight + first * depth, valid, depth);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t lane = 0; lane < valid; ++lane) {
          if (bias_a && !(separate_biases >> gate & 1)) out[row * stride + lane] += bias_a[first + lane];
          if (bias_b) out[row * stride + lane] += bias_b[first + lane];
        }
      }
    }
  }
};

}  // namespace fastrnn::cpu
