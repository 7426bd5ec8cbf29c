// A kernel that synchronises in every way that kernels may, and can be made to forget any of them.
//
// At each step every thread adds to its value an input that another thread of its block fetched, a value that a thread
// of another block stored at the step before, and the sum of what its warp holds.
#pragma once

#include <cstdint>

#include "cuda/common/gpu.cuh"

namespace fastrnn::test {

// What the kernel does wrong.
enum class Wrong {
  kNothing,
  // left out
  kBarrierBeforeReading,  // what other threads of the block put in shared memory
  kBarrierBeforeReuse,    // of that memory
  kBarrierBeforeRelease,  // of what the whole block stored
  kWaitForCopies,
  kWaitForLastCopies,
  kPolling,
  kWarpMeeting,  // between a lane that polls a flag and those that read what it stands for
  kRelease,      // the flag is stored as any other value
  kAcquire,      // the flag is loaded as any other value
  kFlag,         // never stored
  kInitialisation,
  // done by something that orders nothing
  kShuffleForWarpMeeting,
  // done by only some
  kBarrierByOneWarp,
  kBarrierByTurns,  // half of the threads come to one line, half to another
  kEarlyReturn,
  kShuffleByHalf,
  // done where it should not be
  kSharedPastEnd,
  kGlobalPastEnd,
  kGlobalBeforeStart,
  kMisaligned,
  kHostMemory,
  kCopyOverUnread,  // a later step's copies go where this step's input is still to be read
  kStoreUnderCopy,  // to what is being copied
  kStoreAfterCopy,  // to what another thread copied, which need not be done with it
  kCopyMisaligned,
  kCopyPastEnd,
};

constexpr int kCopyFloats = 4;
constexpr int kRelaySlots = 2;  // of inputs in shared memory

struct Relay {
  int64_t steps;
  float* input;       // (steps, threads of all blocks)
  float* value;       // (steps + 1, threads of all blocks); step 0 is given
  uint32_t* flags;    // (blocks): how many steps a block has done
  const float* host;  // memory that is not the GPU's
};

inline int64_t relay_shared_floats(int threads) { return (kRelaySlots + 1) * threads; }

__device__ inline uint32_t load_acquire(const uint32_t* flag) {
  const uint32_t value = cuda::load_relaxed(flag);
  cuda::fence_acquire();
  return value;
}

template <Wrong kWrong>
struct RelayThread {
  const Relay& p;
  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int64_t blocks = gridDim.x, all = blocks * threads, first = static_cast<int64_t>(blockIdx.x) * threads;
  float* const inputs = reinterpret_cast<float*>(cuda::dynamic_shared());  // (kRelaySlots, threads)
  float* const values = inputs + kRelaySlots * threads;                    // (threads)

  __device__ int slot(int64_t step) const { return static_cast<int>(step % kRelaySlots); }

  __device__ void fetch(int64_t step) const {
    if (step >= p.steps) return;
    const int64_t shift = kWrong == Wrong::kCopyMisaligned ? 1 : kWrong == Wrong::kCopyPastEnd ? p.steps * all : 0;
    if (const int piece = tid * kCopyFloats; piece < threads) {
      cuda::copy_async(inputs + slot(step) * threads + piece, p.input + step * all + first + piece + shift, true);
    }
    cuda::commit_copies();
  }

  __device__ void wait_for_input(int64_t step) const {
    if (kWrong == Wrong::kWaitForCopies) return;
    if (step + 1 < p.steps) {
      cuda::wait_for_copies<1>();
    } else if (kWrong != Wrong::kWaitForLastCopies) {
      cuda::wait_for_copies<0>();
    }
  }

  // Until every block has done `steps` steps.
  __device__ void wait_for_blocks(int64_t steps) const {
    if (kWrong == Wrong::kPolling) return;
    for (int64_t block = tid % 32; block < blocks; block += 32) {
      while (load(p.flags + block) < steps) __nanosleep(20);
    }
    if (kWrong == Wrong::kShuffleForWarpMeeting) __shfl_sync(0xffffffffu, tid, 0);
    if (kWrong != Wrong::kWarpMeeting && kWrong != Wrong::kShuffleForWarpMeeting) __syncwarp();
  }

  __device__ static uint32_t load(const uint32_t* flag) {
    return kWrong == Wrong::kAcquire ? *static_cast<const volatile uint32_t*>(flag) : load_acquire(flag);
  }

  __device__ float sum_of_warp(float value) const {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
  }

  __device__ void misbehave() const {
    const bool last = tid == threads - 1, very_first = first + tid == 0;
    if (kWrong == Wrong::kSharedPastEnd && last) values[threads] = 0;
    if (kWrong == Wrong::kGlobalPastEnd && very_first) p.value[(p.steps + 1) * all] = 0;
    if (kWrong == Wrong::kGlobalBeforeStart && very_first) values[tid] = p.input[-1];
    if (kWrong == Wrong::kHostMemory) values[tid] = *p.host;
    if (kWrong == Wrong::kMisaligned) values[tid] = reinterpret_cast<const float4*>(p.input + 1)->x;
    if (kWrong == Wrong::kShuffleByHalf && tid % 32 < 16) values[tid] = __shfl_sync(0xffffffffu, 1.0f, 0);
    if (kWrong == Wrong::kBarrierByOneWarp && tid < 32) __syncthreads();
    if (kWrong == Wrong::kBarrierByTurns) {
      if (tid % 2 == 0) {
        __syncthreads();
      } else {
        __syncthreads();
      }
    }
  }

  // To what other lanes copied. The shuffle makes sure that they have, and orders nothing.
  __device__ void store_after_copy(int64_t step) const {
    __shfl_sync(0xffffffffu, tid, 0);
    if (tid < 32) p.input[step * all + first + (tid + 8) % 32] = 0;
  }

  __device__ void step(int64_t step) const {
    if (kWrong != Wrong::kCopyOverUnread) fetch(step + 1);
    if (kWrong == Wrong::kStoreUnderCopy && step == 0) p.input[first + tid] = 0;
    wait_for_blocks(step);
    const float own = p.value[step * all + first + tid];
    const float other = p.value[step * all + (first + threads + (tid + 7) % threads) % all];
    const float sum = sum_of_warp(own);
    if (kWrong != Wrong::kInitialisation) values[tid] = sum;
    wait_for_input(step);
    if (kWrong == Wrong::kCopyOverUnread) fetch(step + 2);
    if (kWrong == Wrong::kStoreAfterCopy) store_after_copy(step);
    if (kWrong != Wrong::kBarrierBeforeReading) __syncthreads();
    const float input = inputs[slot(step) * threads + (tid + 33) % threads];
    const float mean = values[(tid + 40) % threads] / 32;
    if (kWrong != Wrong::kBarrierBeforeReuse) __syncthreads();
    values[tid] = other / 4 + mean / 4;
    __syncthreads();
    p.value[(step + 1) * all + first + tid] = input + values[(tid + 1) % threads];
  }

  __device__ void done(int64_t steps) const {
    if (kWrong != Wrong::kBarrierBeforeRelease) __syncthreads();
    if (tid != 0 || kWrong == Wrong::kFlag) return;
    uint32_t* const flag = p.flags + blockIdx.x;
    if (kWrong == Wrong::kRelease) {
      *flag = static_cast<uint32_t>(steps);
    } else {
      cuda::store_release(flag, static_cast<uint32_t>(steps));
    }
  }
};

template <Wrong kWrong>
__global__ void relay(const Relay p) {
  const RelayThread<kWrong> thread{p};
  if (kWrong == Wrong::kEarlyReturn && thread.tid == 40) return;
  thread.misbehave();
  thread.fetch(0);
  if (kWrong == Wrong::kCopyOverUnread) thread.fetch(1);
  for (int64_t step = 0; step < p.steps; ++step) {
    thread.step(step);
    thread.done(step + 1);
  }
}

}  // namespace fastrnn::test
