// Sums of a product whose depth the blocks of a small cluster split among them (split-K): each multiplies its share by
// the weights of all their units, and sends every block what is its own of that, through distributed shared memory
// (reduce-scatter). So each reads a share of the other factor, too, instead of all of it.
#pragma once

#include "cluster_exchange.cuh"
#include "warp_sums.cuh"

namespace fastrnn::cuda {

template <int kSplit>
class SplitSums {
  // A product is sent before the one before it is awaited.
  using Exchange = ClusterExchange<4>;

 public:
  // How many products behind the one at hand a sum is asked for. What is sent travels meanwhile.
  static constexpr int kLag = 1;

  struct Shared {
    float* parts;        // (buffers, kSplit, kUnitsPerBlock, kPartStride): of this block's units
    uint64_t* barriers;  // of the exchange

    FASTRNN_INLINE explicit Shared(Carver& carver)
        : parts(carver.take<float>(Exchange::kBuffers * kSplit * kPartValues)),
          barriers(Exchange::take_barriers(carver, 1)) {}
  };

  __device__ SplitSums(const Shared& shared, int64_t products)
      : parts_(shared.parts),
        exchange_(shared.barriers, 1, kSplit * kTileValues<kUnitsPerBlock> * static_cast<int>(sizeof(float)),
                  products) {}

  // Of the n-th product, counted from 0, after the threads have met behind it and before they multiply again. Its tiles
  // are the blocks.
  template <class Product>
  __device__ void send(const Product& product, int64_t n) const {
    constexpr int kPairs = kTileValues<kUnitsPerBlock> / 2;
    static_assert(kSplit * kPairs % kThreadsPerBlock == 0);
    float* const own_part = part(n, cluster_rank());
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < kSplit * kPairs; i += kThreadsPerBlock) {
      const int block = i / kPairs, unit = i % kUnitsPerBlock, batch_row = i % kPairs / kUnitsPerBlock * 2;
      const float2 sums{product.sum(block, unit, batch_row), product.sum(block, unit, batch_row + 1)};
      exchange_.send(reinterpret_cast<float2*>(own_part + unit * kPartStride + batch_row), 0, n, block, sums);
    }
  }

  // Until sum() has what all blocks sent of the n-th product.
  __device__ void await(int64_t n) const { exchange_.await(0, n); }
  // After the threads have met behind the last sum() of it.
  __device__ void received(int64_t n) const { exchange_.received(0, n); }

  template <class Product>
  __device__ float sum(const Product&, int64_t n, int unit, int batch_row) const {
    float sum = 0;
#pragma unroll
    for (int block = 0; block < kSplit; ++block) sum += part(n, block)[unit * kPartStride + batch_row];
    return sum;
  }

 private:
  // Not 16: neighbouring units' parts would share a bank. Even, for two are stored at a time.
  static constexpr int kPartStride = kBatchRowsPerTile + 2;
  static constexpr int kPartValues = kUnitsPerBlock * kPartStride;

  // What a block found of the n-th product.
  __device__ float* part(int64_t n, int block) const {
    return parts_ + (Exchange::buffer(0, n) * kSplit + block) * kPartValues;
  }

  float* const parts_;
  const Exchange exchange_;
};

// The same of a block alone, which has the whole sum at once.
template <>
class SplitSums<1> {
 public:
  static constexpr int kLag = 0;

  struct Shared {
    FASTRNN_INLINE explicit Shared(Carver&) {}
  };

  __device__ SplitSums(const Shared&, int64_t) {}

  template <class Product>
  __device__ void send(const Product&, int64_t) const {}
  __device__ void await(int64_t) const {}
  __device__ void received(int64_t) const {}

  template <class Product>
  __device__ float sum(const Product& product, int64_t, int unit, int batch_row) const {
    return product.sum(0, unit, batch_row);
  }
};

}  // namespace fastrnn::cuda
