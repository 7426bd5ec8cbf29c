// A kernel of clusters in which each block sends what it has to all of them, time and again, and which can be told to
// do one thing wrong.
#pragma once

#include <vector>

#include "cuda/common/gpu.cuh"
#include "memory.h"
#include "relay_run.h"

namespace fastrnn::test {

enum class Mischief {
  kNothing,
  kClusterMeeting,        // stores may come before the mbarriers are ready
  kClusterMeetingByHalf,  // half of the threads do not come
  kAwait,                 // never
  kParity,                // of the phase before
  kExpect,                // never
  kTooMuchExpected,
  kOneBuffer,  // for all steps, of which the next may be sent before this one is read
  kBarrierBeforeSending,
  kLastAwait,  // the block ends before all has come
  kRank,       // beyond the cluster
  kMisaligned,
};

constexpr int kGossipSteps = 6, kGossipBlocks = 4, kGossipClusters = 2, kGossipThreads = 64;
constexpr int kGossipAll = kGossipBlocks * kGossipThreads;  // of a cluster

struct Gossip {
  const float* start;  // (threads of all blocks)
  float* end;          // the same
};

template <Mischief kWrong>
struct GossipThread {
  const Gossip& p;
  const int tid = static_cast<int>(threadIdx.x), rank = cuda::cluster_rank();
  uint64_t* const barriers = reinterpret_cast<uint64_t*>(cuda::dynamic_shared());  // (2)
  float* const buffers = reinterpret_cast<float*>(barriers + 2);                   // (2, blocks, threads)
  float* const own = buffers + 2 * kGossipAll;                                     // (threads)

  __device__ float* buffer(int step) const {
    return buffers + (kWrong == Mischief::kOneBuffer ? 0 : step % 2) * kGossipAll;
  }

  __device__ void expect(int step) const {
    if (kWrong == Mischief::kExpect || step >= kGossipSteps || tid > 0) return;
    const int bytes = kGossipAll * static_cast<int>(sizeof(float));
    cuda::mbarrier_expect(barriers + step % 2, kWrong == Mischief::kTooMuchExpected ? bytes + 8 : bytes);
  }

  __device__ void begin() const {
    if (tid == 0) {
      cuda::mbarrier_init(barriers);
      cuda::mbarrier_init(barriers + 1);
    }
    expect(0);
    expect(1);
    if (kWrong == Mischief::kClusterMeeting || (kWrong == Mischief::kClusterMeetingByHalf && tid % 2)) return;
    cuda::cluster_sync();
  }

  __device__ void send(int step) const {
    if (tid % 4) return;
    float* const to = buffer(step) + rank * kGossipThreads + tid + (kWrong == Mischief::kMisaligned ? 2 : 0);
    const uint4 value = *reinterpret_cast<const uint4*>(own + (tid + 32) % kGossipThreads);
    for (int to_rank = 0; to_rank < kGossipBlocks + (kWrong == Mischief::kRank); ++to_rank) {
      cuda::store_async(reinterpret_cast<uint4*>(to), barriers + step % 2, to_rank, value);
    }
  }

  __device__ void await(int step) const {
    const bool last = step + 1 == kGossipSteps;
    if (kWrong == Mischief::kAwait || (kWrong == Mischief::kLastAwait && last)) return;
    const int parity = step / 2 % 2;
    const auto awaited = static_cast<uint32_t>(kWrong == Mischief::kParity ? 1 - parity : parity);
    while (!cuda::mbarrier_try_wait(barriers + step % 2, awaited)) {
    }
  }

  __device__ void run() const {
    const int64_t at = int64_t{blockIdx.x} * kGossipThreads + tid;
    begin();
    own[tid] = p.start[at];
    float value = 0;
    for (int step = 0; step < kGossipSteps; ++step) {
      if (kWrong != Mischief::kBarrierBeforeSending) __syncthreads();
      send(step);
      await(step);
      value = 0;
      for (int block = 0; block < kGossipBlocks && kWrong != Mischief::kLastAwait; ++block) {
        value += buffer(step)[block * kGossipThreads + (tid + block) % kGossipThreads] / kGossipBlocks;
      }
      __syncthreads();
      expect(step + 2);
      own[tid] = value + static_cast<float>(rank);
    }
    p.end[at] = value;
  }
};

template <Mischief kWrong>
__global__ void gossip(const Gossip p) {
  GossipThread<kWrong>{p}.run();
}

inline std::vector<float> gossip_expected() {
  std::vector<float> own(kGossipClusters * kGossipAll), value(own.size());
  for (size_t i = 0; i < own.size(); ++i) own[i] = relay_input(static_cast<int64_t>(i));
  for (int step = 0; step < kGossipSteps; ++step) {
    for (int i = 0; i < kGossipClusters * kGossipAll; ++i) {
      value[i] = 0;
      for (int block = 0; block < kGossipBlocks; ++block) {
        const int from = i / kGossipAll * kGossipAll + block * kGossipThreads;
        value[i] += own[from + ((i + block) % kGossipThreads + 32) % kGossipThreads] / kGossipBlocks;
      }
    }
    for (int i = 0; i < kGossipClusters * kGossipAll; ++i) {
      own[i] = value[i] + static_cast<float>(i / kGossipThreads % kGossipBlocks);
    }
  }
  return value;
}

template <Mischief kWrong>
const char* run_gossip() {
  constexpr int kBlocks = kGossipBlocks * kGossipClusters;
  const emulation::Buffer<float> start(kBlocks * kGossipThreads), end(kBlocks * kGossipThreads);
  for (size_t i = 0; i < start.size(); ++i) start[i] = relay_input(static_cast<int64_t>(i));
  const int64_t shared = 2 * sizeof(uint64_t) + (2 * kGossipAll + kGossipThreads) * sizeof(float);
  cuda::launch(gossip<kWrong>, {kBlocks, 1, kGossipThreads, shared, false, 1, kGossipBlocks},
               Gossip{start.data(), end.data()}, nullptr);
  return compare(end, gossip_expected());
}

}  // namespace fastrnn::test
