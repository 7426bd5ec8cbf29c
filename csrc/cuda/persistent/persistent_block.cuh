// Synchronisation between the blocks of a persistent kernel.
#pragma once

#include "../stationary/bounded_wait.cuh"
#include "../stationary/stationary_tile.cuh"

namespace fastrnn::cuda {

// One flag per block counts the steps that it has completed. A block's writes of a step precede a __syncthreads(),
// after which its first thread stores the flag with release; a thread for each flag polls it, and fences before the
// block meets. No step overwrites what another reads, so there is no waiting for readers.
class FlagExchange {
 public:
  // flags: (calls, batch groups, unit blocks)
  __device__ FlagExchange(uint32_t* flags, const WaitLimit& limit)
      : group_(flags + (int64_t{blockIdx.z} * gridDim.y + blockIdx.y) * gridDim.x), wait_(limit) {}

  // Call after a __syncthreads().
  __device__ void announce(int64_t steps_done) const {
    if (threadIdx.x == 0) store_release(group_ + blockIdx.x, static_cast<uint32_t>(steps_done));
  }

  // Waits until all blocks of the group have completed that many steps; false, for all threads, if they do not. Call
  // with the whole block, which meets. Not all blocks need have begun before the first step: other kernels, such as
  // NCCL's that wait for another machine, may hold their multiprocessors.
  __device__ bool await(int64_t steps_done) const {
    bool in_time = true;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += kThreadsPerBlock) {
      const bool done =
          wait_.until([&] { return load_relaxed(group_ + i) >= static_cast<uint32_t>(steps_done); }, steps_done == 1);
      fence_acquire();
      in_time = in_time && done;
    }
    return !__syncthreads_or(!in_time);
  }

 private:
  uint32_t* group_;
  const BoundedWait wait_;
};

}  // namespace fastrnn::cuda
