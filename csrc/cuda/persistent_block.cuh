// What the persistent kernels share: which units and batch rows a block owns, how blocks wait for one another, and how
// a step's inputs reach shared memory ahead of their use.
#pragma once

#include "gpu.cuh"
#include "kernels.h"

namespace fastrnn::cuda {

// The calling thread's place: it finishes the cell of one unit and of one row of each tile.
struct ThreadPlace {
  int unit = static_cast<int>(threadIdx.x) % kUnitsPerBlock;
  int row = static_cast<int>(threadIdx.x) / kUnitsPerBlock;
  int lane_row = static_cast<int>(threadIdx.x) % 32 / 4;  // of a lane's first operand row
  int64_t first_unit = int64_t{blockIdx.x} * kUnitsPerBlock;
};
static_assert(kThreadsPerBlock == kUnitsPerBlock * kBatchRowsPerTile);

// The tiles of batch rows of this block's group.
struct Tiles {
  int64_t begin, end;

  __device__ explicit Tiles(int64_t batch) {
    const int64_t tiles = (batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
    begin = tiles * blockIdx.y / gridDim.y;
    end = tiles * (blockIdx.y + 1) / gridDim.y;
  }
};

// Rows that run at step s; none outside the sequence.
__device__ __forceinline__ int64_t running_rows(const Steps& steps, int64_t s) {
  if (s < 0 || s >= steps.steps) return 0;
  return steps.device_sizes ? steps.device_sizes[steps.time(s)] : steps.batch;
}

// A flag for each block counts the steps that it has finished. What a block wrote in a step is written before its
// threads meet and the first of them stores the flag with release; a warp reads it after all its lanes' loads with
// acquire and
// __syncwarp. No step overwrites what another reads, so nobody waits for readers.
class Exchange {
 public:
  __device__ explicit Exchange(uint32_t* flags) : group_(flags + int64_t{blockIdx.y} * gridDim.x) {}

  // After the block's threads have met.
  __device__ void announce(int64_t steps_done) const {
    if (threadIdx.x == 0) store_release(group_ + blockIdx.x, static_cast<uint32_t>(steps_done));
  }

  // Until the owners of columns [begin, end), counted over and over the units, have done that many steps. For a whole
  // warp.
  __device__ void await(int64_t begin, int64_t end, int64_t steps_done) const {
    for (int64_t i = begin / kUnitsPerBlock + threadIdx.x % 32; i * kUnitsPerBlock < end; i += 32) {
      const uint32_t* flag = group_ + i % gridDim.x;
      while (load_acquire(flag) < static_cast<uint32_t>(steps_done)) {
      }
    }
    __syncwarp();
  }

 private:
  uint32_t* group_;
};

// Values of a tile: 16 batch rows by the block's 16 units.
constexpr int kTileValues = kBatchRowsPerTile * kUnitsPerBlock;

// Starts to copy a tile, 16 bytes a thread. address(row) is where the row's units lie, null for zeros. `turn` spreads
// several calls over the threads; legal: some address in global memory.
template <class V, class Address>
__device__ __forceinline__ void fetch_tile(int turn, V* tile, const void* legal, const Address& address) {
  constexpr int kWidth = 16 / sizeof(V);
  constexpr int kPieces = kUnitsPerBlock / kWidth;
  constexpr int kBusyThreads = kBatchRowsPerTile * kPieces;
  const int i = (static_cast<int>(threadIdx.x) + turn * kBusyThreads) % kThreadsPerBlock;
  if (i >= kBusyThreads) return;
  const int row = i / kPieces, column = i % kPieces * kWidth;
  const V* from = address(row);
  copy_async(tile + row * kUnitsPerBlock + column, from ? static_cast<const void*>(from + column) : legal,
             from != nullptr);
}

}  // namespace fastrnn::cuda
