// What the ops may ask of a GPU: for every cell and type, the ways through the sequence, forward and backward.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "../params.h"

namespace fastrnn::cuda {

// What sums, c and the gradients of states are held in.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
using Forward = ForwardParams<T, Accumulator<T>>;
template <class T>
using Backward = BackwardParams<T, Accumulator<T>>;

// Where a call's work is queued. Nothing here is ours: the stream is the caller's, the handle torch's.
struct Queue {
  cudaStream_t stream;
  void* blas;       // cuBLAS handle bound to the stream
  bool allow_tf32;  // products of float may round their factors to TF32
};

// A product and a pointwise kernel for each step: any shape.
template <class T>
struct StreamedKernels {
  void (*forward)(const Forward<T>& params, const Queue& queue);
  void (*backward)(const Backward<T>& params, const Queue& queue);
  int64_t (*forward_scratch)(const Forward<T>& params);  // values of T
  int64_t (*backward_scratch)(const Backward<T>& params);
};

constexpr int kThreadsPerBlock = 256;      // of every kernel
constexpr int kBatchRowsPerTile = 16;      // that a kernel which keeps w_hh on the chip takes at a time
constexpr int kUnitsPerBlock = 16;         // hidden units of a block of a persistent kernel
constexpr int kClusterUnits[] = {16, 32};  // those of a cluster kernel, which comes in two sizes
constexpr int kCallsAtOnce = 4;            // that one launch can take, at most
constexpr int kSplitBlocks = 4;            // of a persistent kernel that may split their products' depth among them

// How such a kernel multiplies: on tensor cores, float rounded to TF32; or float in full, by FFMA.
enum class MathMode { kTensorCores, kExact };

// Blocks of a kernel that keeps w_hh on the chip: each holds the weights of some hidden units, and runs one group of
// batch rows of one call: a direction, or a layer.
struct Grid {
  int64_t unit_blocks, batch_groups, calls;
  int64_t split = 1;  // unit blocks side by side that split their products' depth: 1, or kSplitBlocks as a cluster

  // Of a group's batch rows, at most.
  int64_t tiles(int64_t batch) const {
    const int64_t all = (batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
    return (all + batch_groups - 1) / batch_groups;
  }
};

// What such a kernel is given, Call one of the two above.
template <class Call>
struct StationaryParams {
  Call calls[kCallsAtOnce];
  int64_t most_tiles;  // of a group's batch rows
  uint32_t* flags;     // (calls, batch_groups, unit_blocks) of a persistent kernel, zero
};

// One launch for the whole sequence, w_hh kept in registers and shared memory, of one call or several that know nothing
// of one another.
//
// Persistent: all blocks must run at once.
template <class Call>
struct PersistentPass {
  int64_t (*resident_blocks)(const Dims& dims);  // that the current device runs at once
  int64_t (*scratch)(const Grid& grid);          // values of T; the first call's is used
  void (*run)(const Call* calls, const Grid& grid, const Queue& queue);
};

// Cluster: the unit blocks of a group of batch rows are a cluster, which knows of no other.
template <class Call>
struct ClusterPass {
  int (*resident_clusters)(const Dims& dims, int64_t unit_blocks, int64_t tiles);  // that run at once
  void (*run)(const Call* calls, const Grid& grid, const Queue& queue);
};

template <class T>
struct PersistentKernels {
  PersistentPass<Forward<T>> forward;
  PersistentPass<Backward<T>> backward;
  PersistentPass<Backward<T>> split_backward;  // null where there is none

  const PersistentPass<Backward<T>>& backward_of(const Grid& grid) const {
    return grid.split > 1 ? split_backward : backward;
  }
};

template <class T>
struct ClusterKernels {
  ClusterPass<Forward<T>> forward;
  ClusterPass<Backward<T>> backward;
};

// Defined for double, float, __half and __nv_bfloat16, in streamed_<type>.cu.
template <class T>
const StreamedKernels<T>& streamed(CellKind cell);
// Defined for float, __half and __nv_bfloat16 on tensor cores in persistent_<type>.cu, and for float in full in
// persistent_f32_exact.cu.
template <class T, MathMode kMath>
const PersistentKernels<T>& persistent(CellKind cell);
// The same, in cluster_<type>.cu and cluster_f32_exact.cu; units is one of kClusterUnits.
template <class T, MathMode kMath>
const ClusterKernels<T>& cluster(CellKind cell, int64_t units);

}  // namespace fastrnn::cuda
