// Sums of a GEMM whose depth is split over the blocks of a small cluster (split-K): each multiplies its share of the
// depth by the weights of all their units, and sends every block its part of the partial sums through distributed
// shared memory (reduce-scatter). Each block thus reads only a share of the other operand, too.
#pragma once

#include "../cluster/cluster_exchange.cuh"
#include "../common/warp_sums.cuh"

namespace fastrnn::cuda {

template <int kSplit>
class SplitSums {
  // A GEMM is sent before the previous one is awaited.
  using Exchange = ClusterExchange<4>;

 public:
  struct Shared {
    float* partials;     // (buffers, kSplit, kUnitsPerBlock, kPartialStride): for this block's units
    uint64_t* barriers;  // of the exchange

    FASTRNN_INLINE explicit Shared(SharedArena& arena)
        : partials(arena.take<float>(Exchange::kBuffers * kSplit * kPartialValues)),
          barriers(Exchange::take_barriers(arena, 1)) {}
  };

  __device__ SplitSums(const Shared& shared, const WaitLimit& limit, int64_t gemms)
      : partials_(shared.partials),
        exchange_(shared.barriers, limit, kBatchRowsPerTile, kSplit * kUnitsPerBlock * sizeof(float), gemms) {}

  // For the n-th GEMM, counted from 0: call after a barrier that follows its multiply(), and before the next
  // multiply(). The GEMM's slices are the blocks.
  template <class Gemm>
  __device__ void send(const Gemm& gemm, int64_t n) const {
    constexpr int kPairs = kTileValues<kUnitsPerBlock> / 2;
    static_assert(kSplit * kPairs % kThreadsPerBlock == 0);
    float* const own_partial = partial(n, cluster_rank());
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < kSplit * kPairs; i += kThreadsPerBlock) {
      const int block = i / kPairs, unit = i % kUnitsPerBlock, batch_row = i % kPairs / kUnitsPerBlock * 2;
      const float2 sums{gemm.sum(block, unit, batch_row), gemm.sum(block, unit, batch_row + 1)};
      exchange_.send(reinterpret_cast<float2*>(own_partial + unit * kPartialStride + batch_row), 0, n, block, sums);
    }
  }

  // Waits until all blocks' partial sums of the n-th GEMM have arrived for sum(); false if they do not.
  __device__ bool await(int64_t n) const { return exchange_.await(0, n); }
  // Call after a barrier that follows its last sum().
  __device__ void received(int64_t n) const { exchange_.received(0, n); }

  __device__ void leave() const { exchange_.leave(); }

  __device__ float sum(int64_t n, int unit, int batch_row) const {
    float sum = 0;
#pragma unroll
    for (int block = 0; block < kSplit; ++block) sum += partial(n, block)[unit * kPartialStride + batch_row];
    return sum;
  }

 private:
  // Not 16, to avoid bank conflicts between neighbouring units' partial sums. Even, since they are stored in pairs.
  static constexpr int kPartialStride = kBatchRowsPerTile + 2;
  static constexpr int kPartialValues = kUnitsPerBlock * kPartialStride;

  // A block's partial sums of the n-th GEMM.
  __device__ float* partial(int64_t n, int block) const {
    return partials_ + (Exchange::buffer(0, n) * kSplit + block) * kPartialValues;
  }

  float* const partials_;
  const Exchange exchange_;
};

}  // namespace fastrnn::cuda
