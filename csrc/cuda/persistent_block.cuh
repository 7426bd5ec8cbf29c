// How the blocks of a persistent kernel wait for one another.
#pragma once

#include "stationary_tile.cuh"

namespace fastrnn::cuda {

// A flag for each block counts the steps that it has finished. What a block wrote in a step is written before its
// threads meet and the first of them stores the flag with release; a warp reads it after all its lanes' loads with
// acquire and __syncwarp. No step overwrites what another reads, so nobody waits for readers.
class FlagExchange {
 public:
  // flags: (calls, batch groups, unit blocks)
  __device__ explicit FlagExchange(uint32_t* flags)
      : group_(flags + (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x) {}

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

}  // namespace fastrnn::cuda
