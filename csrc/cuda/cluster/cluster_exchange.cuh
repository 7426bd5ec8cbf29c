// How the blocks of a cluster exchange their results: for every tile of batch rows each block has a ring of buffers,
// used by successive steps, that all blocks of the cluster store into, and an mbarrier per buffer that completes when
// all data has arrived.
//
// No block ever waits for a buffer to become free: there are enough of them. Two suffice if a block receives a step
// before it sends the next one: it stores into the buffers of step n + 2 only after it has received all of step n + 1,
// which every block sends only after it has read step n. Four are needed if it sends one more step first
// (split_sums.cuh).
#pragma once

#include "../common/layout.h"
#include "../stationary/bounded_wait.cuh"
#include "../stationary/stationary_tile.cuh"

namespace fastrnn::cuda {

template <int kBufferCount>
class ClusterExchange {
 public:
  static constexpr int kBuffers = kBufferCount;

  // tiles: in a group of batch rows
  static FASTRNN_INLINE uint64_t* take_barriers(SharedArena& arena, int64_t tiles) {
    return arena.take<uint64_t>(kBuffers * tiles);
  }

  // rows: of all tiles, 16 in each but the last; row_bytes: arriving per step and row; sends: number of steps that send
  // anything. Ends with a cluster-wide barrier.
  __device__ ClusterExchange(uint64_t* barriers, const WaitLimit& limit, int64_t rows, int64_t row_bytes, int64_t sends)
      : barriers_(barriers), wait_(limit), rows_(rows), row_bytes_(static_cast<int>(row_bytes)), sends_(sends) {
    if (threadIdx.x == 0) {
      const int64_t tiles = (rows + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
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

  // Waits until everything that the cluster sends in step n, counted from 0, has arrived; false if it does not.
  __device__ bool await(int64_t tile, int64_t n) const {
    uint64_t* const barrier = barriers_ + buffer(tile, n);
    const auto parity = static_cast<uint32_t>(n / kBuffers % 2);
    return wait_.until([&] { return mbarrier_try_wait(barrier, parity); });
  }

  // Call after a __syncthreads() that follows await(tile, n), and before sending step n + 1.
  __device__ void received(int64_t tile, int64_t n) const {
    if (threadIdx.x == 0) expect(tile, n + kBuffers);
  }

  // How many rows of a tile are sent.
  __device__ int rows_of(int64_t tile) const {
    const int64_t left = rows_ - tile * kBatchRowsPerTile;
    return left < kBatchRowsPerTile ? static_cast<int>(left) : kBatchRowsPerTile;
  }

  // Call with the whole block before it ends, whether it received everything or gave up.
  __device__ void leave() const { leave_cluster(); }

  // Stores value to block `rank`, at the address that `to` has in this block.
  template <class V>
  __device__ void send(V* to, int64_t tile, int64_t n, int rank, const V& value) const {
    store_async(to, barriers_ + buffer(tile, n), rank, value);
  }

 private:
  __device__ void expect(int64_t tile, int64_t n) const {
    if (n < sends_) mbarrier_expect(barriers_ + buffer(tile, n), rows_of(tile) * row_bytes_);
  }

  uint64_t* const barriers_;
  const BoundedWait wait_;
  const int64_t rows_;
  const int row_bytes_;
  const int64_t sends_;
};

}  // namespace fastrnn::cuda
