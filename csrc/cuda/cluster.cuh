// The cluster kernels of every cell for one type: what each cluster_<type>.cu instantiates.
#pragma once

#include "../cells/elman.h"
#include "../cells/gru.h"
#include "../cells/lstm.h"
#include "cluster_backward.cuh"
#include "cluster_forward.cuh"
#include "error.h"

namespace fastrnn::cuda {

// One of the two passes: Block is ClusterForwardBlock or ClusterBackwardBlock, kKernel runs it.
template <class Call, class Block, void (*kKernel)(StationaryParams<Call>)>
struct ClusterLaunch {
  static int64_t shared_bytes(const Dims& dims, int64_t tiles) {
    Carver count(nullptr);
    typename Block::Shared(dims, tiles, count);
    return count.used();
  }

  static int resident(const Dims& dims, int64_t unit_blocks, int64_t tiles) {
    return resident_clusters(kKernel, kThreadsPerBlock, shared_bytes(dims, tiles), unit_blocks);
  }

  static void run(const Call* calls, const Grid& grid, const Queue& queue) {
    const StationaryParams<Call> params = stationary_params(calls, grid);
    const int64_t shared = shared_bytes(calls->dims, params.most_tiles);
    launch(kKernel,
           {grid.unit_blocks, grid.batch_groups, kThreadsPerBlock, shared, false, grid.directions, grid.unit_blocks},
           params, queue.stream);
  }

  static constexpr ClusterPass<Call> pass() { return {&resident, &run}; }
};

template <class Cell, class T, int kUnits>
constexpr ClusterKernels<T> cluster_kernels() {
  return {
      ClusterLaunch<Forward<T>, ClusterForwardBlock<Cell, T, kUnits>, &cluster_forward<Cell, T, kUnits>>::pass(),
      ClusterLaunch<Backward<T>, ClusterBackwardBlock<Cell, T, kUnits>, &cluster_backward<Cell, T, kUnits>>::pass()};
}

template <class T, int kUnits>
const ClusterKernels<T>& cluster_of(CellKind cell) {
  // In the order of CellKind.
  static constexpr ClusterKernels<T> kernels[kPlainCellKinds] = {
      cluster_kernels<Elman<Tanh>, T, kUnits>(), cluster_kernels<Elman<Relu>, T, kUnits>(),
      cluster_kernels<Lstm, T, kUnits>(), cluster_kernels<Gru, T, kUnits>()};
  return kernels[static_cast<int>(cell)];
}

template <class T>
const ClusterKernels<T>& cluster(CellKind cell, int64_t units) {
  return units == kClusterUnits[0] ? cluster_of<T, kClusterUnits[0]>(cell) : cluster_of<T, kClusterUnits[1]>(cell);
}

}  // namespace fastrnn::cuda
