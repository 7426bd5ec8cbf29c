// The streamed kernels of every cell for one type: what each streamed_<type>.cu instantiates.
#pragma once

#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/gru_reset_before.h"
#include "../cells/jordan.h"
#include "../cells/lstm.h"
#include "../cells/normalized.h"
#include "streamed_backward.cuh"
#include "streamed_forward.cuh"

namespace fastrnn::cuda {

template <class Cell, class T>
constexpr StreamedKernels<T> streamed_kernels() {
  return {&StreamedForward<Cell, T>::run, &StreamedBackward<Cell, T>::run, &StreamedForward<Cell, T>::scratch_size,
          &StreamedBackward<Cell, T>::scratch_size};
}

template <class T>
const StreamedKernels<T>& streamed(CellKind cell) {
  // In the order of CellKind.
  static constexpr StreamedKernels<T> kernels[kCellKinds] = {streamed_kernels<Elman<Tanh>, T>(),
                                                             streamed_kernels<Elman<Relu>, T>(),
                                                             streamed_kernels<Lstm, T>(),
                                                             streamed_kernels<Gru, T>(),
                                                             streamed_kernels<LstmCell<false, true>, T>(),
                                                             streamed_kernels<LstmCell<true, false>, T>(),
                                                             streamed_kernels<LstmCell<true, true>, T>(),
                                                             streamed_kernels<GruResetBefore, T>(),
                                                             streamed_kernels<Jordan, T>(),
                                                             streamed_kernels<Normalized<Elman<Tanh>>, T>(),
                                                             streamed_kernels<Normalized<Elman<Relu>>, T>(),
                                                             streamed_kernels<Normalized<Lstm>, T>(),
                                                             streamed_kernels<Normalized<LstmCell<false, true>>, T>(),
                                                             streamed_kernels<Normalized<LstmCell<true, false>>, T>(),
                                                             streamed_kernels<Normalized<LstmCell<true, true>>, T>(),
                                                             streamed_kernels<Normalized<Gru>, T>()};
  return kernels[static_cast<int>(cell)];
}

}  // namespace fastrnn::cuda
