// Synchronisation between the blocks of a persistent kernel.
#pragma once

#include "../stationary/stationary_tile.cuh"

namespace fastrnn::cuda {

// One flag per block counts the steps that it has completed. A block's writes of a step precede a __syncthreads(),
// after which its first thread stores the flag with release; a warp reads them after all its lanes' acquire loads and a
// __syncwarp(). No step overwrites what another reads, so there is no waiting for readers.
class FlagExchange {
 public:
  // flags: (calls, batch groups, unit blocks)
  __device__ explicit FlagExchange(uint32_t* flags)
      : group_(flags + (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x) {}

  // Call after a __syncthreads().
  __device__ void announce(int64_t steps_done) const {
    if (threadIdx.x == 0) store_release(group_ + blockIdx.x, static_cast<uint32_t>(steps_done));
  }

  // Waits until the owners of columns [begin, end), counted over and over the units, have completed that many steps.
  // Call with a whole warp.
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

}  // namespace fastrnn::cuda
