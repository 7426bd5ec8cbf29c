// The sums of a matrix's columns: the gradients of biases.
#pragma once

#include "../../matrix.h"
#include "../isa/vector.h"
#include "panels.h"

namespace fastrnn::cpu {

constexpr int64_t kRowsOfASum = 16;  // added up by themselves first, so that long sums lose little to rounding

// out[j] = the sum of column j; the columns of `matrix` are contiguous.
template <class Isa, class T>
void sum_rows(T* out, const Matrix<const T>& matrix) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  constexpr int kLanes = S::kLanes, kVectors = 4;
  const auto sum = [&]<int vectors>(int64_t column, int lanes, std::integral_constant<int, vectors>) {
    V total[vectors] = {};
    for (int64_t begin = 0; begin < matrix.rows; begin += kRowsOfASum) {
      V part[vectors] = {};
      const int64_t end = smaller(begin + kRowsOfASum, matrix.rows);
      for (int64_t row = begin; row < end; ++row) {
        const T* from = matrix.data + row * matrix.row_stride + column;
        for (int v = 0; v < vectors; ++v) part[v] += S::load(from + v * kLanes, lanes);
      }
      for (int v = 0; v < vectors; ++v) total[v] += part[v];
    }
    for (int v = 0; v < vectors; ++v) S::store(out + column + v * kLanes, total[v], lanes);
  };
  int64_t column = 0;
  for (; column + kVectors * kLanes <= matrix.columns; column += kVectors * kLanes) {
    sum(column, kLanes, std::integral_constant<int, kVectors>{});
  }
  for (; column < matrix.columns; column += kLanes) {
    sum(column, static_cast<int>(smaller(kLanes, matrix.columns - column)), std::integral_constant<int, 1>{});
  }
}

}  // namespace fastrnn::cpu
