// The interface between the ops and the GPU kernels: for every cell and type, the paths through the sequence, forward
// and backward.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <type_traits>

#include "../params.h"
#include "common/wait_limit.h"
#include "tuning.h"

namespace fastrnn::cuda {

// The type of sums, of c and of the gradients of states.
template <class T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T>
using Forward = ForwardParams<T, Accumulator<T>>;
template <class T>
using Backward = BackwardParams<T, Accumulator<T>>;

template <class Call>
constexpr bool kIsBackward = false;
template <class T, class A>
constexpr bool kIsBackward<BackwardParams<T, A>> = true;

// Where a call's work is enqueued. Owned by others: the stream by the caller, the handle by torch.
struct Queue {
  cudaStream_t stream;
  void* blas;       // cuBLAS handle bound to the stream
  bool allow_tf32;  // float GEMMs may round their operands to TF32
};

// A GEMM and a pointwise kernel for each step: any shape.
template <class T>
struct StreamedKernels {
  void (*forward)(const Forward<T>& params, const Queue& queue);
  void (*backward)(const Backward<T>& params, const Queue& queue);
  int64_t (*forward_scratch)(const Forward<T>& params);  // values of T
  int64_t (*backward_scratch)(const Backward<T>& params);
};

constexpr int kThreadsPerBlock = 256;      // of every kernel
constexpr int kBatchRowsPerTile = 16;      // of a kernel that keeps w_hh on the chip
constexpr int kUnitsPerBlock = 16;         // hidden units of a block of a persistent kernel
constexpr int kClusterUnits[] = {16, 32};  // the same for a cluster kernel, which comes in two sizes
constexpr int kSplitBlocks = 4;            // blocks of a persistent kernel that may split the depth of their GEMMs

// How such a kernel multiplies: on tensor cores, with float rounded to TF32; or in full float32, by FFMA.
enum class MathMode { kTensorCores, kExact };

// The grid of a kernel that keeps w_hh on the chip: each block holds the weights of some hidden units, and runs one
// group of batch rows of one call: a direction, or a layer.
struct Grid {
  int64_t unit_blocks, batch_groups, calls;
  int64_t split = 1;  // adjacent unit blocks that split the depth of their GEMMs: 1, or kSplitBlocks as a cluster

  // Tiles in a group of batch rows, at most.
  int64_t tiles(int64_t batch) const {
    const int64_t all = (batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
    return (all + batch_groups - 1) / batch_groups;
  }
};

// The arguments of such a kernel; Call is one of the two above.
template <class Call>
struct StationaryParams {
  Call calls[kCallsAtOnce];
  int64_t most_tiles;  // in a group of batch rows
  uint32_t* flags;     // (calls, batch_groups, unit_blocks) of a persistent kernel, zero
  WaitLimit wait;
};

// One launch for the whole sequence, with w_hh in registers and shared memory, for one call or several independent
// ones.
//
// Persistent: all blocks must be co-resident.
template <class Call>
struct PersistentPass {
  int64_t (*resident_blocks)(const Dims& dims);  // co-resident on the current device
  int64_t (*scratch)(const Grid& grid);          // values of T; only the first call's is used
  void (*run)(const Call* calls, const Grid& grid, const Queue& queue);
};

// Cluster: the unit blocks of a group of batch rows form a cluster, independent of all others.
template <class Call>
struct ClusterPass {
  int (*resident_clusters)(const Dims& dims, int64_t unit_blocks, int64_t tiles);  // co-resident
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
// Defined for float, __half and __nv_bfloat16 on tensor cores in persistent_<type>.cu, and for full float32 in
// persistent_f32_exact.cu.
template <class T, MathMode kMath>
const PersistentKernels<T>& persistent(CellKind cell);
// The same, in cluster_<type>.cu and cluster_f32_exact.cu; units is one of kClusterUnits.
template <class T, MathMode kMath>
const ClusterKernels<T>& cluster(CellKind cell, int64_t units);

}  // namespace fastrnn::cuda
