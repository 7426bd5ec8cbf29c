// Shared by the kernels that keep w_hh on the chip: blocks own some hidden units, and process their batch rows in
// tiles.
#pragma once

#include "../common/gpu.cuh"
#include "../kernels.h"

namespace fastrnn::cuda {

// The tiles of batch rows of this block's group.
struct Tiles {
  int64_t begin, end;

  __device__ explicit Tiles(int64_t batch) {
    const int64_t tiles = (batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
    begin = tiles * blockIdx.y / gridDim.y;
    end = tiles * (blockIdx.y + 1) / gridDim.y;
  }

  // Their rows that lie within the batch.
  __device__ int64_t rows(int64_t batch) const {
    return (batch < end * kBatchRowsPerTile ? batch : end * kBatchRowsPerTile) - begin * kBatchRowsPerTile;
  }
};

// The calling thread's place in a tile of 16 batch rows by the block's units: it runs the cells of one unit, in every
// kRowStep-th row.
template <int kUnits>
struct ThreadPlace {
  static constexpr int kRowStep = kThreadsPerBlock / kUnits;
  int unit = static_cast<int>(threadIdx.x) % kUnits;
  int first_row = static_cast<int>(threadIdx.x) / kUnits;
  int64_t first_unit = int64_t{blockIdx.x} * kUnits;  // the block's

  // Calls visit(row) for the thread's rows of these tiles, up to a row.
  template <class Visit>
  __device__ void for_rows(const Tiles& tiles, int64_t end, const Visit& visit) const {
    for (int64_t row = tiles.begin * kBatchRowsPerTile + first_row; row < tiles.end * kBatchRowsPerTile && row < end;
         row += kRowStep) {
      visit(row);
    }
  }
};

template <class Call>
StationaryParams<Call> stationary_params(Path path, const Call* calls, const Grid& grid) {
  StationaryParams<Call> params{};
  params.wait = wait_limit(path, kIsBackward<Call>, calls->dims, calls->steps.steps);
  for (int64_t i = 0; i < grid.calls; ++i) params.calls[i] = calls[i];
  params.most_tiles = grid.tiles(calls->dims.batch);
  return params;
}

template <int kUnits>
constexpr int kTileValues = kBatchRowsPerTile * kUnits;

// Rows running at step s; none outside the sequence.
__device__ __forceinline__ int64_t running_rows(const Steps& steps, int64_t s) {
  if (s < 0 || s >= steps.steps) return 0;
  return steps.device_sizes ? steps.device_sizes[steps.time(s)] : steps.batch;
}

// The first row of step s in the data.
__device__ __forceinline__ int64_t first_row_of(const Steps& steps, int64_t s) {
  if (s < 0 || s >= steps.steps) return 0;
  return steps.device_offsets ? steps.device_offsets[steps.time(s)] : steps.time(s) * steps.batch;
}

// The rows of a step: how many run, and where the first one is in the data.
struct StepRows {
  int running;
  int64_t first;

  __device__ StepRows(const Steps& steps, int64_t s)
      : running(static_cast<int>(running_rows(steps, s))), first(first_row_of(steps, s)) {}
};

// Those of a step and its neighbours, since asking again is a branch each time, and in ragged batches a load.
struct RowsAround {
  StepRows before, now, after;

  __device__ RowsAround(const Steps& steps, int64_t s) : before(steps, s - 1), now(steps, s), after(steps, s + 1) {}

  // From s - 1 to s.
  __device__ void go_forward(const Steps& steps, int64_t s) {
    before = now;
    now = after;
    after = StepRows(steps, s + 1);
  }
  // From s + 1 to s.
  __device__ void go_back(const Steps& steps, int64_t s) {
    after = now;
    now = before;
    before = StepRows(steps, s - 1);
  }
};

// Starts to copy a tile, 16 bytes per thread. address(row): where the row's units are stored, null for zeros. `turn`
// spreads successive calls over the threads; legal: any valid address in global memory.
template <int kUnits, class V, class Address>
__device__ __forceinline__ void fetch_tile(int turn, V* tile, const void* legal, const Address& address) {
  constexpr int kWidth = 16 / sizeof(V);
  constexpr int kPieces = kUnits / kWidth;
  constexpr int kAll = kBatchRowsPerTile * kPieces;
  constexpr int kBusyThreads = kAll < kThreadsPerBlock ? kAll : kThreadsPerBlock;
  const int first = (static_cast<int>(threadIdx.x) + turn * kBusyThreads) % kThreadsPerBlock;
  if (first >= kBusyThreads) return;
  static_assert(kAll % kBusyThreads == 0);
#pragma unroll
  for (int n = 0; n < kAll / kBusyThreads; ++n) {
    const int i = first + n * kBusyThreads, row = i / kPieces, column = i % kPieces * kWidth;
    const V* from = address(row);
    copy_async(tile + row * kUnits + column, from ? static_cast<const void*>(from + column) : legal, from != nullptr);
  }
}

}  // namespace fastrnn::cuda
