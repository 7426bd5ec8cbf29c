// What the ops may ask of a GPU: for every cell and type, two ways through the sequence, forward and backward.
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

// Blocks of a persistent kernel: each holds the weights of some hidden units, and runs one group of batch rows.
struct Grid {
  int64_t unit_blocks, batch_groups;
};

// One launch for the whole sequence, W_hh kept in registers and shared memory. All blocks must run at once.
template <class Params>
struct PersistentPass {
  int (*resident_blocks)(const Dims& dims);  // on a multiprocessor of the current device; 0 if even one does not fit
  int64_t (*scratch)(const Dims& dims, const Grid& grid);  // values of T
  void (*run)(const Params& params, const Grid& grid, const Queue& queue);
};

constexpr int kThreadsPerBlock = 256;  // of every kernel
constexpr int kUnitsPerBlock = 16;     // hidden units of a block of a persistent kernel
constexpr int kBatchRowsPerTile = 16;  // batch rows that it takes at a time

template <class T>
struct PersistentKernels {
  PersistentPass<Forward<T>> forward;
  PersistentPass<Backward<T>> backward;
};

// Defined for double, float, __half and __nv_bfloat16, in streamed_<type>.cu.
template <class T>
const StreamedKernels<T>& streamed(CellKind cell);
// Defined for float (on TF32), __half and __nv_bfloat16, in persistent_<type>.cu.
template <class T>
const PersistentKernels<T>& persistent(CellKind cell);

}  // namespace fastrnn::cuda
