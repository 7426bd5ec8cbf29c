// A matrix of borrowed memory, the CPU's or a GPU's: an operand for whoever multiplies.
#pragma once

#include <cstdint>

namespace fastrnn {

template <class T>
struct Matrix {
  T* data;
  int64_t rows, columns;
  int64_t row_stride, column_stride = 1;

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
  Matrix row_range(int64_t begin, int64_t end) const {
    return {data + begin * row_stride, end - begin, columns, row_stride, column_stride};
  }
  Matrix column_range(int64_t begin, int64_t end) const {
    return {data + begin * column_stride, rows, end - begin, row_stride, column_stride};
  }
  // Rows first, first + step, first + 2 * step, ...
  Matrix every(int64_t first, int64_t step) const {
    return {data + first * row_stride, rows / step, columns, row_stride * step, column_stride};
  }
};

}  // namespace fastrnn
