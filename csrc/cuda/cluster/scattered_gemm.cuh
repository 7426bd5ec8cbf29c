// GEMM of stationary weights with 16 batch rows, for the whole sequence: rows of the result are partitioned over warps,
// so that no sums have to be combined. For shallow GEMMs with many rows; StationaryGemm (stationary_gemm.cuh) is for
// the others, and describes the layout of fragments.
//
// A warp takes every kWarps-th slice, of 16 rows. It keeps its first slices in registers and the rest in shared memory.
#pragma once

#include "../stationary/stationary_gemm.cuh"

namespace fastrnn::cuda {

template <class T, int kDepth>
class ScatteredGemm {
 public:
  static constexpr int kPieces = kDepth / Mma<T>::kDepth;
  static constexpr int kPairWidth = Mma<T>::kDepth / 4;
  static constexpr int kRegisterSlices = kPieces < 16 ? 16 / kPieces : 1;

  struct Shared {
    uint4* weights;

    FASTRNN_INLINE Shared(int64_t rows, SharedArena& arena)
        : weights(arena.take<uint4>(kWarps * shared_slices(rows) * kPieces * 32)) {}
  };

  __device__ ScatteredGemm(int64_t rows, const Shared& shared)
      : warp_(static_cast<int>(threadIdx.x) / 32),
        lane_(static_cast<int>(threadIdx.x) % 32),
        slices_(static_cast<int>((rows / kMmaUnits - warp_ + kWarps - 1) / kWarps)),
        shared_weights_(shared.weights + warp_ * shared_slices(rows) * kPieces * 32 + lane_) {}

  // address(row, column): the address of an element of the weights; the next column is `stride` after it.
  template <class Address>
  __device__ void load_weights(const Address& address, int64_t stride) {
    const auto pair = [&](int64_t row, int column) { return gather_pair(address(row, column), stride); };
#pragma unroll
    for (int i = 0; i < kRegisterSlices; ++i) {
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const uint4 fragment = i < slices_ ? load_fragment(i, piece, pair) : uint4{};
        weights_[i][piece][0] = fragment.x;
        weights_[i][piece][1] = fragment.y;
        weights_[i][piece][2] = fragment.z;
        weights_[i][piece][3] = fragment.w;
      }
    }
    for (int i = kRegisterSlices; i < slices_; ++i) {
      for (int piece = 0; piece < kPieces; ++piece) shared_fragment(i, piece) = load_fragment(i, piece, pair);
    }
  }

  // row(i): the address of a batch row. store(row, batch_row, pair): receives the sums of a row of the result for two
  // neighbouring batch rows.
  template <class Row, class Store>
  __device__ void multiply(const Row& row, const Store& store) const {
    Pair right[kPieces][kRowTiles];
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
#pragma unroll
      for (int half = 0; half < kRowTiles; ++half) {
        const T* const values = row(half * kMmaRows + lane_ / 4);
        right[piece][half] = load_pair(values + piece * Mma<T>::kDepth + lane_ % 4 * kPairWidth);
      }
    }
#pragma unroll
    for (int i = 0; i < kRegisterSlices; ++i) {
      if (i >= slices_) break;
      float sums[kRowTiles][4] = {};
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) add_piece(weights_[i][piece], right[piece], sums);
      store_slice(i, sums, store);
    }
#pragma unroll 1
    for (int i = kRegisterSlices; i < slices_; ++i) {
      float sums[kRowTiles][4] = {};
#pragma unroll
      for (int piece = 0; piece < kPieces; ++piece) {
        const uint4 fragment = shared_fragment(i, piece);
        const uint32_t weights[4] = {fragment.x, fragment.y, fragment.z, fragment.w};
        add_piece(weights, right[piece], sums);
      }
      store_slice(i, sums, store);
    }
  }

 private:
  static FASTRNN_INLINE int64_t shared_slices(int64_t rows) {
    const int64_t most = (rows / kMmaUnits + kWarps - 1) / kWarps;
    return most > kRegisterSlices ? most - kRegisterSlices : 0;
  }

  __device__ int64_t first_row(int i) const { return int64_t{i * kWarps + warp_} * kMmaUnits; }

  __device__ uint4& shared_fragment(int i, int piece) const {
    return shared_weights_[((i - kRegisterSlices) * kPieces + piece) * 32];
  }

  template <class LoadPair>
  __device__ uint4 load_fragment(int i, int piece, const LoadPair& pair) const {
    const int64_t row = first_row(i) + lane_ / 4;
    const int column = piece * Mma<T>::kDepth + lane_ % 4 * kPairWidth;
    const Pair upper = pair(row, column), lower = pair(row + 8, column);
    return {upper.low, lower.low, upper.high, lower.high};
  }

  __device__ __forceinline__ static void add_piece(const uint32_t (&weights)[4], const Pair (&right)[kRowTiles],
                                                   float (&sums)[kRowTiles][4]) {
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      const uint32_t columns[2] = {right[half].low, right[half].high};
      Mma<T>::multiply_add(sums[half], weights, columns);
    }
  }

  template <class Store>
  __device__ __forceinline__ void store_slice(int i, const float (&sums)[kRowTiles][4], const Store& store) const {
    const int64_t row = first_row(i) + lane_ / 4;
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      const int batch_row = half * kMmaRows + lane_ % 4 * 2;
      store(row, batch_row, float2{sums[half][0], sums[half][1]});
      store(row + 8, batch_row, float2{sums[half][2], sums[half][3]});
    }
  }

  const int warp_, lane_, slices_;
  uint4* const shared_weights_;
  uint32_t weights_[kRegisterSlices][kPieces][4];
};

}  // namespace fastrnn::cuda
