// The persistent kernels of every cell for one type: what each persistent_<type>.cu instantiates.
#pragma once

#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "error.h"
#include "persistent_backward.cuh"
#include "persistent_forward.cuh"

namespace fastrnn::cuda {

// One of the two passes: Block is PersistentForwardBlock or PersistentBackwardBlock, kKernel runs it.
template <class T, class Call, class Block, void (*kKernel)(StationaryParams<Call>)>
struct PersistentLaunch {
  static int64_t shared_bytes(const Dims& dims) {
    Carver count(nullptr);
    typename Block::Shared(dims, count);
    return count.used();
  }

  static int resident(const Dims& dims) { return resident_blocks(kKernel, kThreadsPerBlock, shared_bytes(dims)); }

  static int64_t flag_bytes(const Grid& grid) {
    return grid.unit_blocks * grid.batch_groups * grid.directions * static_cast<int64_t>(sizeof(uint32_t));
  }

  static int64_t scratch(const Grid& grid) {
    return (flag_bytes(grid) + static_cast<int64_t>(sizeof(T)) - 1) / static_cast<int64_t>(sizeof(T));
  }

  static void run(const Call* calls, const Grid& grid, const Queue& queue) {
    StationaryParams<Call> params = stationary_params(calls, grid);
    params.flags = reinterpret_cast<uint32_t*>(calls->scratch);
    check(cudaMemsetAsync(params.flags, 0, static_cast<size_t>(flag_bytes(grid)), queue.stream));
    const int64_t shared = shared_bytes(calls->dims);
    launch(kKernel, {grid.unit_blocks, grid.batch_groups, kThreadsPerBlock, shared, true, grid.directions}, params,
           queue.stream);
  }

  static constexpr PersistentPass<Call> pass() { return {&resident, &scratch, &run}; }
};

template <class Cell, class T, Math kMath>
constexpr PersistentKernels<T> persistent_kernels() {
  return {PersistentLaunch<T, Forward<T>, PersistentForwardBlock<Cell, T, kMath>,
                           &persistent_forward<Cell, T, kMath>>::pass(),
          PersistentLaunch<T, Backward<T>, PersistentBackwardBlock<Cell, T, kMath>,
                           &persistent_backward<Cell, T, kMath>>::pass()};
}

template <class T, Math kMath>
const PersistentKernels<T>& persistent(CellKind cell) {
  // In the order of CellKind.
  static constexpr PersistentKernels<T> kernels[kPlainCellKinds] = {
      persistent_kernels<Elman<Tanh>, T, kMath>(), persistent_kernels<Elman<Relu>, T, kMath>(),
      persistent_kernels<Lstm, T, kMath>(), persistent_kernels<Gru, T, kMath>()};
  return kernels[static_cast<int>(cell)];
}

}  // namespace fastrnn::cuda
