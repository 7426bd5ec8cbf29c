// How the blocks of a cluster exchange what they compute: each has some buffers for every tile of batch rows, for steps
// in turn, that all blocks of the cluster store into, and an mbarrier for each that knows when all has come.
//
// Nobody waits until a buffer is free: there are enough of them. Two, where a block receives a step before it sends the
// next one: it stores into the buffers of step n + 2 after it has received all of step n + 1, and every block sends
// that after it has read step n. Four, where it sends one more step first (split_sums.cuh).
#pragma once

#include "layout.h"
#include "stationary_tile.cuh"

namespace fastrnn::cuda {

template <int kBufferCount>
class ClusterExchange {
 public:
  static constexpr int kBuffers = kBufferCount;

  // tiles: of a group of batch rows
  static FASTRNN_INLINE uint64_t* take_barriers(SharedArena& arena, int64_t tiles) {
    return arena.take<uint64_t>(kBuffers * tiles);
  }

  // bytes: that arrive in a step of a tile; sends: how many steps send anything. Ends where all threads of the cluster
  // meet.
  __device__ ClusterExchange(uint64_t* barriers, int64_t tiles, int bytes, int64_t sends)
      : barriers_(barriers), bytes_(bytes), sends_(sends) {
    if (threadIdx.x == 0) {
      for (int64_t i = 0; i < kBuffers * tiles; ++i) {
        mbarrier_init(barriers_ + i);
      }
      for (int64_t tile = 0; tile < tiles; ++tile) {
        for (int64_t n = 0; n < kBuffers; ++n) expect(tile, n);
      }
    }
    cluster_sync();
  }

  static __device__ int64_t buffer(int64_t tile, int64_t n) { return tile * kBuffers + n % kBuffers; }

  // Until all that the cluster sends in step n, counted from 0, is there.
  __device__ void await(int64_t tile, int64_t n) const {
    mbarrier_wait(barriers_ + buffer(tile, n), static_cast<uint32_t>(n / kBuffers % 2));
  }

  // After the block's threads have met behind await(tile, n), and before they send step n + 1.
  __device__ void received(int64_t tile, int64_t n) const {
    if (threadIdx.x == 0) expect(tile, n + kBuffers);
  }

  // value to where block `rank` has what lies at `to` in this one.
  template <class V>
  __device__ void send(V* to, int64_t tile, int64_t n, int rank, const V& value) const {
    store_async(to, barriers_ + buffer(tile, n), rank, value);
  }

 private:
  __device__ void expect(int64_t tile, int64_t n) const {
    if (n < sends_) mbarrier_expect(barriers_ + buffer(tile, n), bytes_);
  }

  uint64_t* const barriers_;
  const int bytes_;
  const int64_t sends_;
};

}  // namespace fastrnn::cuda
