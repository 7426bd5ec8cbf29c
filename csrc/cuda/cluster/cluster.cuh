// The cluster kernels of every cell for one type; each cluster_<type>.cu instantiates them.
#pragma once

#include "../../cells/list.h"
#include "../common/error.h"
#include "cluster_backward.cuh"
#include "cluster_forward.cuh"

namespace fastrnn::cuda {

// One of the two passes: Block is ClusterForwardBlock or ClusterBackwardBlock, kKernel runs it.
template <class Call, class Block, void (*kKernel)(StationaryParams<Call>)>
struct ClusterLaunch {
  static int64_t shared_bytes(const Dims& dims, int64_t tiles) {
    SharedArena count(nullptr);
    typename Block::Shared(dims, tiles, count);
    return count.used();
  }

  static int resident(const Dims& dims, int64_t unit_blocks, int64_t tiles) {
    return resident_clusters(kKernel, kThreadsPerBlock, shared_bytes(dims, tiles), unit_blocks);
  }

  static void run(const Call* calls, const Grid& grid, const Queue& queue) {
    const StationaryParams<Call> params = stationary_params(Path::kCluster, calls, grid);
    const int64_t shared = shared_bytes(calls->dims, params.most_tiles);
    launch(kKernel,
           {grid.unit_blocks, grid.batch_groups, kThreadsPerBlock, shared, false, grid.calls, grid.unit_blocks}, params,
           queue.stream);
  }

  static constexpr ClusterPass<Call> pass() { return {&resident, &run}; }
};

template <class Cell, class T, MathMode kMath, int kUnits>
constexpr ClusterKernels<T> cluster_kernels() {
  return {ClusterLaunch<Forward<T>, ClusterForwardBlock<Cell, T, kMath, kUnits>,
                        &cluster_forward<Cell, T, kMath, kUnits>>::pass(),
          ClusterLaunch<Backward<T>, ClusterBackwardBlock<Cell, T, kMath, kUnits>,
                        &cluster_backward<Cell, T, kMath, kUnits>>::pass()};
}

template <class T>
struct ClusterTable {
  ClusterKernels<T> kernels[PlainCells::kCount];
};

template <class T, MathMode kMath, int kUnits, class... Plain>
constexpr ClusterTable<T> cluster_table(CellList<Plain...>) {
  return {{cluster_kernels<Plain, T, kMath, kUnits>()...}};
}

template <class T, MathMode kMath, int kUnits>
const ClusterKernels<T>& cluster_of(CellKind cell) {
  static constexpr ClusterTable<T> table = cluster_table<T, kMath, kUnits>(PlainCells{});
  return table.kernels[static_cast<int>(cell)];
}

template <class T, MathMode kMath>
const ClusterKernels<T>& cluster(CellKind cell, int64_t units) {
  return units == kClusterUnits[0] ? cluster_of<T, kMath, kClusterUnits[0]>(cell)
                                   : cluster_of<T, kMath, kClusterUnits[1]>(cell);
}

}  // namespace fastrnn::cuda
