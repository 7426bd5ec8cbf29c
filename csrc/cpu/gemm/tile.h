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

// The left operand of weights with scales: rounded, each row with a scale of its own, too. Rows of an odd length have a
// zero behind them.
struct RoundedOperand : Operand<int16_t> {
  const float* scales;
};

template <class T, class W>
using OperandOf = std::conditional_t<kHasScales<W>, RoundedOperand, Operand<T>>;

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
  const Factor<T, W>* first_row;
  const OperandOf<T, W>* a;
  PanelView<T, W> panels[kPanelsOfARow];
  T* sums;           // (panels, rows, vectors)
  int64_t stride;    // of its rows
  bool add = false;  // to what `sums` holds, once the sums are complete: fewer roundings than going on from it
  const T* row_scales = nullptr;  // of the left operand, if W has scales
};

template <class Isa, class T, class W, int kRows, int kVectors, int kPanels>
FASTRNN_INLINE void store_sums(const Tile<T, W>& tile,
                               const typename Simd<Isa, T>::V (&acc)[kPanels][kRows][kVectors]) {
  using S = Simd<Isa, T>;
  static_assert(kPanels == 1 || kRows == 1);
  T* sums = tile.sums;
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row, sums += tile.stride) {
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        T* to = sums + (p * kVectors + v) * S::kLanes;
        S::store(to, tile.add ? S::load(to) + acc[p][row][v] : acc[p][row][v]);
      }
    }
  }
}

// To init[v] + scale[v] * (the row's scale * the sum).
template <class Isa, class T, class W, int kRows, int kVectors>
FASTRNN_INLINE void scale_sums(const PanelView<T, W>& panel, const T* row_scales,
                               typename Simd<Isa, T>::V (&acc)[kRows][kVectors]) {
  using S = Simd<Isa, T>;
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    const T* init = panel.init + v * S::kLanes;
    const auto start = S::load(init), scale = S::load(init + kVectors * S::kLanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      acc[row][v] = Isa::multiply_add(acc[row][v] * row_scales[row], scale, start);  // either scale may be tiny
    }
  }
}

// As multiply_tile, of integers and with scale_sums: the sums of kIntegerDepth products are exact.
template <class Isa, class T, class W, int kRows, int kVectors, int kPanels>
FASTRNN_INLINE void multiply_integers(const Tile<T, W>& tile) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  constexpr int kLanes = S::kLanes;
  const int64_t a_stride = tile.a->stride, depth = tile.a->length;
  V acc[kPanels][kRows][kVectors] = {};
  const W* panel[kPanels];
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) panel[p] = tile.panels[p].data;
  for (int64_t begin = 0; begin < depth; begin += kIntegerDepth) {
    const int64_t end = begin + kIntegerDepth < depth ? begin + kIntegerDepth : depth;
    typename S::Integers part[kPanels][kRows][kVectors] = {};
    for (int64_t k = begin; k < end; k += 2) {
      const auto factors = [&](int row)
                               FASTRNN_INLINE_LAMBDA { return S::broadcast_pair(tile.first_row + row * a_stride + k); };
      using Pairs = decltype(factors(0));
      Pairs x[kRows];
      if constexpr (kRows <= kVectors) {
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) x[row] = factors(row);
      }
#pragma GCC unroll 2
      for (int p = 0; p < kPanels; ++p) {
        Pairs w[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) w[v] = S::load_pairs(panel[p] + v * 2 * kLanes);
#pragma GCC unroll 8
        for (int row = 0; row < kRows; ++row) {
          if constexpr (kRows > kVectors) x[row] = factors(row);
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) part[p][row][v] = S::add_products(part[p][row][v], w[v], x[row]);
        }
        panel[p] += 2 * tile.panels[p].stride;
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) acc[p][row][v] += S::to_float(part[p][row][v]);
      }
    }
  }
#pragma GCC unroll 2
  for (int p = 0; p < kPanels; ++p) {
    scale_sums<Isa, T, W, kRows, kVectors>(tile.panels[p], tile.row_scales, acc[p]);
  }
  store_sums<Isa, T, W, kRows, kVectors, kPanels>(tile, acc);
}

// sums[row][v] = init[v] + sum over k of a[row][k] * panel[k][v], with k in order and each row by itself: the bits do
// not depend on how rows are grouped into tiles, nor on how tiles are partitioned over threads.
//
// For each k, either the rows' scalars or the panel's vectors stay in registers, whichever are fewer. By default GCC
// reloads the weights of a tile of two or three rows for each row: kept in registers, tiles of two rows were 1.08-1.19
// times as fast in LSTM and RNN, of three 1.0 (the time loop at B = 2 to 8, H = 32 to 128, AVX2, 2026-11-26); for one
// row GCC's own choice is best.
template <class Isa, class T, class W, int kRows, int kVectors, int kPanels>
FASTRNN_INLINE void multiply_floats(const Tile<T, W>& tile) {
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
      for (int v = 0; v < kVectors; ++v) acc[p][row][v] = S::load(tile.panels[p].init + v * kLanes);
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
  store_sums<Isa, T, W, kRows, kVectors, kPanels>(tile, acc);
}

template <class Isa, class T, class W, int kRows, int kVectors, int kPanels = 1>
void multiply_tile(const Tile<T, W>& tile) {
  if constexpr (kHasScales<W>) {
    multiply_integers<Isa, T, W, kRows, kVectors, kPanels>(tile);
  } else {
    multiply_floats<Isa, T, W, kRows, kVectors, kPanels>(tile);
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
