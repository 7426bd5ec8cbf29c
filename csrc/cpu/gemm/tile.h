// The register tile: a few batch rows times one panel of weights, or one row times two panels, with the sums held in
// registers over the whole depth.
#pragma once

#include <cstdint>

#include "../../cells/cell.h"
#include "../isa/vector.h"

namespace fastrnn::cpu {

constexpr int kMaxTileRows = 8;
constexpr int kMaxPanelVectors = 4;  // but for cells with more gates, whose panels are a vector of units wide
// Panels that a single row is multiplied by at the same time. One panel has fewer sums than it takes to hide the
// latency of a core's additions: two panels were worth 1.07-1.26 for GRU, whose panels have three vectors, 0.95-1.05
// for LSTM, with four, and 1.02-1.30 for RNN, but for 0.93 where it has one panel and a half (H = 32 to 512, AVX2, the
// time loop alone, 2026-11-25). Beyond that the L2 cache, where the weights come from, is the limit: four panels were
// level with two.
constexpr int kPanelsOfARow = 2;

constexpr int panel_vectors(int gates) { return gates > kMaxPanelVectors ? gates : kMaxPanelVectors / gates * gates; }

// Rows of a tile whose panel is `vectors` wide: as many as keep every sum in a register.
template <class Isa>
constexpr int tile_rows(int vectors) {
  return Isa::kAccumulators / vectors < kMaxTileRows ? Isa::kAccumulators / vectors : kMaxTileRows;
}

// Rows of the next tile, of those that are left: chosen so that there are as few tiles as possible, and the last two
// about equal. Splitting all rows evenly would take two divisions a tile.
FASTRNN_INLINE int64_t next_tile_rows(int64_t left, int64_t most) {
  if (left <= most) return left;
  return left < 2 * most ? (left + 1) / 2 : most;
}

// The left operand: rows of `stride` values, whose depth consists of `count` runs of `length` values; run i starts at
// starts[i]. A plain matrix is one run; GRU's backward skips a slot.
template <class T>
struct Operand {
  const T* data;
  int64_t stride;
  int64_t length;
  int count;
  int64_t starts[kMaxGates];
};

// The right operand: one panel, as deep as the left one, its rows `stride` values apart. W is its storage type: T, or a
// narrower type that is widened as it is loaded, with its rows kPackedTogether by kPackedTogether in one.
template <class T, class W>
struct PanelView {
  const T* init;  // initial value of the sums; behind it, if W has scales, each column's
  const W* data;
  int64_t stride;
};

template <class T, class W>
struct Tile {
  const T* first_row;
  const Operand<T>* a;
  PanelView<T, W> panels[kPanelsOfARow];
  T* sums;           // (panels, rows, vectors)
  int64_t stride;    // of its rows
  bool add = false;  // to what `sums` holds, once the sums are complete: fewer roundings than going on from it
};

// sums[row][v] = init[v] + sum over k of a[row][k] * panel[k][v], with k in order and each row by itself: the bits do
// not depend on how rows are grouped into tiles, nor on how tiles are partitioned over threads. If W has scales, it is
// init[v] + scale[v] * the sum.
//
// For each k, either the rows' scalars or the panel's vectors stay in registers, whichever are fewer. By default GCC
// reloads the weights of a tile of two or three rows for each row: kept in registers, tiles of two rows were 1.08-1.19
// times as fast in LSTM and RNN, of three 1.0 (the time loop at B = 2 to 8, H = 32 to 128, AVX2, 2026-11-26); for one
// row GCC's own choice is best.
template <class Isa, class T, class W, int kRows, int kVectors, int kPanels = 1>
void multiply_tile(const Tile<T, W>& tile) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  constexpr int kLanes = S::kLanes;
  const int64_t a_stride = tile.a->stride;
  V acc[kPanels][kRows][kVectors];
  const W* panel[kPanels];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    panel[p] = tile.panels[p].data;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v)
        acc[p][row][v] = kHasScales<W> ? V{} : S::load(tile.panels[p].init + v * kLanes);
    }
  }
  const auto add = [&](const T* x, int64_t k, int part) FASTRNN_INLINE_LAMBDA {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
      if constexpr (kRows > 1 && kRows <= kVectors) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const V w = in_register(S::load_packed(panel[p], v, part));
#pragma GCC unroll 8
          for (int row = 0; row < kRows; ++row) acc[p][row][v] += x[row * a_stride + k] * w;
        }
      } else {
        V w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) w[v] = S::load_packed(panel[p], v, part);
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) {
          const T scalar = x[row * a_stride + k];
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) acc[p][row][v] += scalar * w[v];
        }
      }
    }
  };
  constexpr int kTogether = kPackedTogether<W>;
  for (int run = 0; run < tile.a->count; ++run) {
    const T* x = tile.first_row + tile.a->starts[run];
    const int64_t whole = tile.a->length / kTogether * kTogether;
    for (int64_t k = 0; k < whole; k += kTogether) {
#pragma GCC unroll 2
      for (int part = 0; part < kTogether; ++part) add(x, k + part, part);
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) panel[p] += kTogether * tile.panels[p].stride;
    }
    if constexpr (kTogether > 1) {  // such weights have one run alone
      if (whole < tile.a->length) add(x, whole, 0);
    }
  }
  if constexpr (kHasScales<W>) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const T* init = tile.panels[p].init + v * kLanes;
        const V start = S::load(init), scale = S::load(init + kVectors * kLanes);
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) acc[p][row][v] = Isa::multiply_add(acc[p][row][v], scale, start);
      }
    }
  }
  static_assert(kPanels == 1 || kRows == 1);
  T* sums = tile.sums;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row, sums += tile.stride) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        T* to = sums + (p * kVectors + v) * kLanes;
        S::store(to, tile.add ? S::load(to) + acc[p][row][v] : acc[p][row][v]);
      }
    }
  }
}

template <class T, class W>
using MultiplyTile = void (*)(const Tile<T, W>& tile);

template <class Isa, class T, class W, int kRows, int kVectors>
constexpr MultiplyTile<T, W> tile_if_it_fits() {
  if constexpr (kRows <= tile_rows<Isa>(kVectors)) {
    return &multiply_tile<Isa, T, W, kRows, kVectors>;
  } else {
    return nullptr;
  }
}

template <class Isa, class T, class W, int kVectors>
struct TileColumn {
  MultiplyTile<T, W> rows[kMaxTileRows] = {
      tile_if_it_fits<Isa, T, W, 1, kVectors>(), tile_if_it_fits<Isa, T, W, 2, kVectors>(),
      tile_if_it_fits<Isa, T, W, 3, kVectors>(), tile_if_it_fits<Isa, T, W, 4, kVectors>(),
      tile_if_it_fits<Isa, T, W, 5, kVectors>(), tile_if_it_fits<Isa, T, W, 6, kVectors>(),
      tile_if_it_fits<Isa, T, W, 7, kVectors>(), tile_if_it_fits<Isa, T, W, 8, kVectors>()};
};

// kVectors: of a whole panel
template <class Isa, class T, class W, int kVectors>
FASTRNN_INLINE MultiplyTile<T, W> choose_tile(int rows, int vectors) {
  if constexpr (kVectors > kMaxPanelVectors) {
    static constexpr TileColumn<Isa, T, W, kVectors> whole;
    return whole.rows[rows - 1];
  }
  static constexpr TileColumn<Isa, T, W, 1> one;
  static constexpr TileColumn<Isa, T, W, 2> two;
  static constexpr TileColumn<Isa, T, W, 3> three;
  static constexpr TileColumn<Isa, T, W, 4> four;
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
