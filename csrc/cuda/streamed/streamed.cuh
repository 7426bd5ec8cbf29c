// The streamed kernels of every cell for one type; each streamed_<type>.cu instantiates them.
#pragma once

#include "../../cells/list.h"
#include "streamed_backward.cuh"
#include "streamed_forward.cuh"

namespace fastrnn::cuda {

template <class Cell, class T>
constexpr StreamedKernels<T> streamed_kernels() {
  return {&StreamedForward<Cell, T>::run, &StreamedBackward<Cell, T>::run, &StreamedForward<Cell, T>::scratch_size,
          &StreamedBackward<Cell, T>::scratch_size};
}

template <class T>
struct StreamedTable {
  StreamedKernels<T> kernels[PlainCells::kCount + ExtendedCells::kCount];
};

template <class T, class... Plain, class... Extended>
constexpr StreamedTable<T> streamed_table(CellList<Plain...>, CellList<Extended...>) {
  return {{streamed_kernels<Plain, T>()..., streamed_kernels<Extended, T>()...}};
}

template <class T>
const StreamedKernels<T>& streamed(CellKind cell) {
  static constexpr StreamedTable<T> table = streamed_table<T>(PlainCells{}, ExtendedCells{});
  return table.kernels[static_cast<int>(cell)];
}

}  // namespace fastrnn::cuda
