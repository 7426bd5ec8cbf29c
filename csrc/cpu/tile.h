// The register tile: a few batch rows times one panel of weights, the sums held in registers over the whole depth.
#pragma once

#include <cstdint>

#include "vector.h"

namespace fastrnn::cpu {

constexpr int kMaxTileRows = 8;
constexpr int kMaxPanelVectors = 4;

// Rows of a tile whose panel is `vectors` wide: as many as leave every sum in a register.
template <class Isa>
constexpr int tile_rows(int vectors) {
  return Isa::kAccumulators / vectors < kMaxTileRows ? Isa::kAccumulators / vectors : kMaxTileRows;
}

// The left operand: rows of `stride` values, whose depth lies in `count` runs of `length` values; run i starts at
// starts[i]. One run is plain; GRU's backward skips a channel.
template <class T>
struct Operand {
  const T* data;
  int64_t stride;
  int64_t length;
  int count;
  int64_t starts[kMaxPanelVectors];

  FASTRNN_INLINE int64_t depth() const { return length * count; }
};

// sums[row][v] = panel[0][v] + sum over k of a[row][k] * panel[1 + k][v], k in one fixed order, each row by itself:
// the bits do not depend on how rows are grouped into tiles, nor tiles dealt to threads.
template <class Isa, class T, int kRows, int kVectors>
void multiply_tile(const Operand<T>& a, int64_t first_row, const T* panel, T* sums) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  constexpr int kLanes = S::kLanes;
  V acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[row][v] = S::load(panel + v * kLanes);
  }
  panel += kVectors * kLanes;
  const T* base = a.data + first_row * a.stride;
  for (int run = 0; run < a.count; ++run) {
    const T* x = base + a.starts[run];
    for (int64_t k = 0; k < a.length; ++k) {
      V w[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) w[v] = S::load(panel + v * kLanes);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const T scalar = x[row * a.stride + k];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[row][v] += scalar * w[v];
      }
      panel += kVectors * kLanes;
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) S::store(sums + (row * kVectors + v) * kLanes, acc[row][v]);
  }
}

template <class T>
using MultiplyTile = void (*)(const Operand<T>& a, int64_t first_row, const T* panel, T* sums);

template <class Isa, class T, int kRows, int kVectors>
constexpr MultiplyTile<T> tile_if_it_fits() {
  if constexpr (kRows <= tile_rows<Isa>(kVectors)) {
    return &multiply_tile<Isa, T, kRows, kVectors>;
  } else {
    return nullptr;
  }
}

template <class Isa, class T, int kVectors>
struct TileColumn {
  MultiplyTile<T> rows[kMaxTileRows] = {tile_if_it_fits<Isa, T, 1, kVectors>(), tile_if_it_fits<Isa, T, 2, kVectors>(),
                                        tile_if_it_fits<Isa, T, 3, kVectors>(), tile_if_it_fits<Isa, T, 4, kVectors>(),
                                        tile_if_it_fits<Isa, T, 5, kVectors>(), tile_if_it_fits<Isa, T, 6, kVectors>(),
                                        tile_if_it_fits<Isa, T, 7, kVectors>(), tile_if_it_fits<Isa, T, 8, kVectors>()};
};

template <class Isa, class T>
FASTRNN_INLINE MultiplyTile<T> choose_tile(int rows, int vectors) {
  static constexpr TileColumn<Isa, T, 1> one;
  static constexpr TileColumn<Isa, T, 2> two;
  static constexpr TileColumn<Isa, T, 3> three;
  static constexpr TileColumn<Isa, T, 4> four;
  switch (vectors) {
    case 1:
      return one.rows[rows - 1];
    case 2:
      return two.rows[rows - 1];
    case 3:
      return three.rows[rows - 1];
    default:
      return four.rows[rows - 1];
  }
}

}  // namespace fastrnn::cpu
