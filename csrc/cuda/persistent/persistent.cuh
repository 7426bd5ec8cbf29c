// The persistent kernels of every cell for one type; each persistent_<type>.cu instantiates them.
#pragma once

#include "../../cells/list.h"
#include "../common/error.h"
#include "persistent_backward.cuh"
#include "persistent_forward.cuh"

namespace fastrnn::cuda {

// One of the passes: Block is PersistentForwardBlock or PersistentBackwardBlock, kKernel runs it, with kSplit blocks
// per cluster.
template <class T, class Call, class Block, void (*kKernel)(StationaryParams<Call>), int kSplit>
struct PersistentLaunch {
  static int64_t shared_bytes(const Dims& dims) {
    SharedArena count(nullptr);
    typename Block::Shared(dims, count);
    return count.used();
  }

  static int64_t resident(const Dims& dims) {
    const int64_t shared = shared_bytes(dims);
    if constexpr (kSplit > 1) return int64_t{kSplit} * resident_clusters(kKernel, kThreadsPerBlock, shared, kSplit);
    const int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount);
    return multiprocessors * resident_blocks(kKernel, kThreadsPerBlock, shared);
  }

  static int64_t flag_bytes(const Grid& grid) {
    return grid.unit_blocks * grid.batch_groups * grid.calls * static_cast<int64_t>(sizeof(uint32_t));
  }

  static int64_t scratch(const Grid& grid) {
    return (flag_bytes(grid) + static_cast<int64_t>(sizeof(T)) - 1) / static_cast<int64_t>(sizeof(T));
  }

  static void run(const Call* calls, const Grid& grid, const Queue& queue) {
    StationaryParams<Call> params = stationary_params(Path::kPersistent, calls, grid);
    params.flags = reinterpret_cast<uint32_t*>(calls->scratch);
    check(cudaMemsetAsync(params.flags, 0, static_cast<size_t>(flag_bytes(grid)), queue.stream));
    const int64_t shared = shared_bytes(calls->dims);
    launch(kKernel, {grid.unit_blocks, grid.batch_groups, kThreadsPerBlock, shared, true, grid.calls, kSplit}, params,
           queue.stream);
  }

  static constexpr PersistentPass<Call> pass() { return {&resident, &scratch, &run}; }
};

template <class Cell, class T, MathMode kMath>
constexpr PersistentPass<Forward<T>> forward_pass() {
  using Block = PersistentForwardBlock<Cell, T, kMath>;
  return PersistentLaunch<T, Forward<T>, Block, &persistent_forward<Cell, T, kMath>, 1>::pass();
}

template <class Cell, class T, MathMode kMath, int kSplit>
constexpr PersistentPass<Backward<T>> backward_pass() {
  using Block = PersistentBackwardBlock<Cell, T, kMath, kSplit>;
  return PersistentLaunch<T, Backward<T>, Block, &persistent_backward<Cell, T, kMath, kSplit>, kSplit>::pass();
}

template <class Cell, class T, MathMode kMath>
constexpr PersistentKernels<T> persistent_kernels() {
  PersistentKernels<T> kernels{forward_pass<Cell, T, kMath>(), backward_pass<Cell, T, kMath, 1>(), {}};
  // With a single gate, the gradients are no more to read than h, and with FFMA the arithmetic takes longer than
  // reading.
  if constexpr (Cell::kGates > 1 && kMath == MathMode::kTensorCores) {
    kernels.split_backward = backward_pass<Cell, T, kMath, kSplitBlocks>();
  }
  return kernels;
}

template <class T>
struct PersistentTable {
  PersistentKernels<T> kernels[PlainCells::kCount];
};

template <class T, MathMode kMath, class... Plain>
constexpr PersistentTable<T> persistent_table(CellList<Plain...>) {
  return {{persistent_kernels<Plain, T, kMath>()...}};
}

template <class T, MathMode kMath>
const PersistentKernels<T>& persistent(CellKind cell) {
  static constexpr PersistentTable<T> table = persistent_table<T, kMath>(PlainCells{});
  return table.kernels[static_cast<int>(cell)];
}

}  // namespace fastrnn::cuda
