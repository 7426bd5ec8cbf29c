// Weights packed into panels: what one tile reads, in the order in which it reads it.
//
// A panel covers panel_vectors() vectors: kGates vectors for each vector of units. A packed panel is a matrix
// [depth][vectors][lanes], whose sums start from [vectors][lanes] (the biases), behind which the columns' scales stand
// if the weights have some. Lanes past the last unit are zero. Of kPackedTogether rows, each column's values are side
// by side, and the last rows may be missing.
#pragma once

#include <cstdint>

#include "../tuning.h"
#include "tile.h"

namespace fastrnn::cpu {

FASTRNN_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTRNN_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTRNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Part `part` of 0..count split evenly into `parts` contiguous ranges.
struct Range {
  int64_t begin, end;
};
FASTRNN_INLINE Range share(int64_t count, int64_t part, int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}
// The range, clipped to values below `end`.
FASTRNN_INLINE Range below(const Range& range, int64_t end) {
  return {smaller(range.begin, end), smaller(range.end, end)};
}

// Whether a worker prefetches the next step's gates before it runs this one; in larger steps each tile's gates are
// prefetched before the tile is multiplied. A panel touches one cache line of every gate's row, a pattern that no
// hardware prefetcher detects.
template <class T>
FASTRNN_INLINE bool fits_step_prefetch(const Range& rows, int64_t row_size) {
  return (rows.end - rows.begin) * row_size * static_cast<int64_t>(sizeof(T)) <= kPrefetchStepBytes;
}

// Prefetches `size` values of each of these rows.
template <class T>
FASTRNN_INLINE void prefetch_values(const T* data, int64_t stride, const Range& rows, int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (int64_t i = 0; i < size; i += kLine) __builtin_prefetch(data + row * stride + i);
  }
}

// How the columns of a GEMM's result, units times gates, are partitioned into panels.
template <class Isa, class T, int kGates>
struct PanelGrid {
  static constexpr int kLanes = Simd<Isa, T>::kLanes;
  static constexpr int kVectors = panel_vectors(kGates);  // of a whole panel
  static constexpr int64_t kUnits = kVectors / kGates * kLanes;
  static constexpr int64_t kWidth = kUnits * kGates;

  int64_t units;  // columns of the result, per gate
  int64_t depth;

  FASTRNN_INLINE int64_t count() const { return ceil_div(units, kUnits); }
  FASTRNN_INLINE int64_t first_unit(int64_t i) const { return i * kUnits; }
  // Units in adjacent panels.
  FASTRNN_INLINE int64_t units_in(const Range& panels) const {
    return smaller(first_unit(panels.end), units) - first_unit(panels.begin);
  }
  FASTRNN_INLINE int64_t units_in(int64_t i) const { return units_in({i, i + 1}); }
  FASTRNN_INLINE int unit_vectors_in(int64_t i) const { return static_cast<int>(ceil_div(units_in(i), kLanes)); }

  FASTRNN_INLINE int vectors_in(int64_t i) const { return unit_vectors_in(i) * kGates; }

  // How many of these panels, up to kPanelsOfARow, one tile multiplies that many rows by.
  FASTRNN_INLINE int64_t at_once(const Range& panels, int64_t rows) const {
    const bool all =
        rows == 1 && panels.end - panels.begin == kPanelsOfARow && vectors_in(panels.end - 1) * kLanes == kWidth;
    return all ? kPanelsOfARow : 1;
  }

  template <class Epilogue>
  FASTRNN_INLINE void prefetch_rows(const Range& panels, int64_t first_row, int rows, const Epilogue& epilogue) const {
    const int64_t unit = first_unit(panels.begin), end = unit + units_in(panels);
    for (int row = 0; row < rows; ++row) {
      for (int64_t u = unit; u < end; u += kLanes) epilogue.prefetch(first_row + row, u);
    }
  }

  // Applies the epilogue to the sums of some rows and one panel, or of one row and several panels: epilogue(row, unit,
  // lanes, sums) is called for each vector of units, with sums pointing to kGates vectors of `lanes` valid lanes.
  //
  // A single loop rather than two nested ones, in which GCC would reload the constants of the cell's arithmetic for
  // each row: this made GRU 1.17-1.27 times as fast, LSTM 1.11-1.16, RNN 1.04-1.08 (inference at H = 32 to 128, B = 4
  // to 128, one thread, AVX2, 2026-11-26; savings by next_tile_rows and StoreSums::place included).
  template <class Epilogue>
  FASTRNN_INLINE void apply_epilogue(const Range& panels, int64_t first_row, int rows, const T* sums,
                                     const Epilogue& epilogue) const {
    const int64_t first = first_unit(panels.begin), count = units_in(panels);
    const int unit_vecs = static_cast<int>(ceil_div(count, kLanes)), whole = static_cast<int>(count / kLanes);
    // With a constant number of lanes, the inlined epilogue needs no masks and no branches.
    for (int at = 0, row = 0, uv = 0; at < rows * whole; ++at) {
      epilogue(first_row + row, first + uv * kLanes, kLanes, sums + (row * unit_vecs + uv) * kGates * kLanes);
      if (++uv == whole) {
        uv = 0;
        ++row;
      }
    }
    if (whole == unit_vecs) return;
    const int64_t unit = first + whole * kLanes;
    for (int row = 0; row < rows; ++row) {
      epilogue(first_row + row, unit, static_cast<int>(units - unit),
               sums + (row * unit_vecs + whole) * kGates * kLanes);
    }
  }
};

// An epilogue that stores the sums of single-gate panels as a matrix, or adds them to it. Tiles of whole vectors do so
// directly.
template <class Isa, class T, bool kAdd = false>
struct StoreSums {
  using S = Simd<Isa, T>;
  static constexpr bool kAdds = kAdd;

  T* out;
  int64_t stride;

  FASTRNN_INLINE T* place(int64_t row, int64_t unit) const { return out + row * stride + unit; }
  FASTRNN_INLINE bool prefetches() const { return false; }
  FASTRNN_INLINE void prefetch(int64_t, int64_t) const {}
  FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
    T* to = place(row, unit);
    S::store(to, kAdd ? S::load(to, lanes) + S::load(sums) : S::load(sums), lanes);
  }
};

// As multiply_views, for panels that fit one tile; see PanelGrid::at_once.
//
// No blocking over the depth: blocks that stay in the L1 cache were no faster (80 against 83 G multiply-adds a second
// at depths of 64 to 2048, the panel in the L2 cache), and the cell's arithmetic then no longer overlaps with the next
// tile's.
template <class W, class Isa, class T, int kGates, class View, class Epilogue>
FASTRNN_INLINE void multiply_at_once(const PanelGrid<Isa, T, kGates>& grid, const Range& panels, const View& view,
                                     const OperandOf<T, W>& a, int64_t begin, int64_t end, const Epilogue& epilogue) {
  alignas(64) T sums[kMaxTileRows * grid.kWidth];
  const int vectors = grid.vectors_in(panels.begin);
  const int64_t most = tile_rows<Isa>(vectors);
  constexpr bool kPlaces = requires { epilogue.place(begin, begin); };
  const bool whole = grid.units_in(panels) % grid.kLanes == 0;
  int rows;
  for (int64_t first = begin; first < end; first += rows) {
    rows = static_cast<int>(next_tile_rows(end - first, most));
    if (epilogue.prefetches()) grid.prefetch_rows(panels, first, rows, epilogue);
    const bool one_panel = panels.end - panels.begin == 1;
    const auto multiply = one_panel ? choose_tile<Isa, T, W, grid.kVectors>(rows, vectors)
                                    : &multiply_tile<Isa, T, W, 1, grid.kVectors, kPanelsOfARow>;
    Tile<T, W> tile{
        a.data + first * a.stride, &a, {view(panels.begin), view(panels.end - 1)}, sums, vectors * grid.kLanes};
    if constexpr (kHasScales<W>) tile.row_scales = a.scales + first;
    if constexpr (kPlaces) {
      if (whole) {
        tile.sums = epilogue.place(first, grid.first_unit(panels.begin));
        tile.stride = epilogue.stride;
        tile.add = Epilogue::kAdds;
        multiply(tile);
        continue;
      }
    }
    multiply(tile);
    grid.apply_epilogue(panels, first, rows, sums, epilogue);
  }
}

// Multiplies rows [begin, end) of `a` by `panels`, tile by tile; view(i) is panel i. For the calls of the epilogue see
// PanelGrid::apply_epilogue; StoreSums is one that tiles can bypass. If epilogue.prefetches(), epilogue.prefetch(row,
// unit) is called before a tile is multiplied, for each of its rows' vectors of units, so that memory latency overlaps
// with the multiplication.
template <class W, class Isa, class T, int kGates, class View, class Epilogue>
FASTRNN_INLINE void multiply_views(const PanelGrid<Isa, T, kGates>& grid, const Range& panels, const View& view,
                                   const OperandOf<T, W>& a, int64_t begin, int64_t end, const Epilogue& epilogue) {
  const int64_t step = grid.at_once(panels, end - begin);
  for (int64_t i = panels.begin; i < panels.end; i += step) {
    multiply_at_once<W>(grid, {i, i + step}, view, a, begin, end, epilogue);
  }
}

template <class Isa, class T, class W, int kGates>
struct Panels : PanelGrid<Isa, T, kGates> {
  using Grid = PanelGrid<Isa, T, kGates>;
  using Grid::depth, Grid::first_unit, Grid::kLanes, Grid::kUnits, Grid::kWidth, Grid::units, Grid::units_in,
      Grid::vectors_in;

  T* inits;
  W* data;

  static constexpr int64_t kInitSize = kHasScales<W> ? 2 * kWidth : kWidth;
  static constexpr int64_t kTogether = kPackedTogether<W>;

  FASTRNN_INLINE int64_t inits_size() const { return this->count() * kInitSize; }
  FASTRNN_INLINE int64_t size() const { return this->count() * panel_size(); }
  FASTRNN_INLINE T* init(int64_t i) const { return inits + i * kInitSize; }
  FASTRNN_INLINE W* panel(int64_t i) const { return data + i * panel_size(); }
  FASTRNN_INLINE int64_t view_stride(int64_t i) const { return int64_t{vectors_in(i)} * kLanes; }

  // weight (kGates * units, depth), multiplied along its rows, as in forward. The sums start from bias_a + bias_b
  // (kGates * units each, or null), without bias_a for the gates whose bits are set. scales (kGates * units): of the
  // rows, if W has some.
  void pack_rows(int64_t i, const W* weight, const T* bias_a, const T* bias_b, unsigned separate_biases,
                 const T* scales) const {
    const int vectors = vectors_in(i);
    for (int v = 0; v < vectors; ++v) {
      const int gate = v % kGates;
      const int64_t unit = first_unit(i) + v / kGates * kLanes, first = gate * units + unit;
      const int64_t valid = smaller(kLanes, units - unit);
      T* start = init(i) + v * kLanes;
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        start[lane] = 0;
        if (lane < valid && bias_a && !(separate_biases >> gate & 1)) start[lane] += bias_a[first + lane];
        if (lane < valid && bias_b) start[lane] += bias_b[first + lane];
        if constexpr (kHasScales<W>) start[view_stride(i) + lane] = lane < valid ? scales[first + lane] : T(0);
      }
    }
    pack_values(i, weight, depth, panel(i));
  }

  // Only the weights, whose rows are `from_stride` values apart, from a type whose values W can represent.
  template <class From>
  void pack_values(int64_t i, const From* weight, int64_t from_stride, W* out) const {
    const int vectors = vectors_in(i);
    // The cache lines that one block writes stay in the L1 cache.
    for (int64_t block = 0; block < depth; block += kPackDepth) {
      const int64_t end = smaller(block + kPackDepth, depth);
      for (int v = 0; v < vectors; ++v) {
        pack_vector(i, v, weight, from_stride, out + v * kTogether * kLanes, block, end);
      }
    }
  }

  // weight (depth, units), its rows `from_stride` values apart, multiplied along its columns, as in backward. One gate
  // and no bias: inits stay unused.
  template <class From>
  void pack_columns(int64_t i, const From* weight, int64_t from_stride, W* out) const {
    using S = Simd<Isa, T>;
    const int whole = static_cast<int>(units_in(i) / kLanes), rest = static_cast<int>(units_in(i) % kLanes);
    for (int64_t k = 0; k < depth; ++k, out += view_stride(i)) {
      const From* in = weight + k * from_stride + first_unit(i);
      for (int v = 0; v < whole; ++v) S::store(out + v * kLanes, S::load(in + v * kLanes));
      if (rest > 0) S::store(out + whole * kLanes, S::load(in + whole * kLanes, rest));
    }
  }

 private:
  FASTRNN_INLINE int64_t panel_size() const { return ceil_div(depth, kTogether) * kTogether * kWidth; }

  template <class From>
  void pack_vector(int64_t i, int v, const From* weight, int64_t from_stride, W* out, int64_t begin,
                   int64_t end) const {
    const int64_t stride = view_stride(i);
    const int64_t unit = first_unit(i) + v / kGates * kLanes, valid = smaller(kLanes, units - unit);
    const From* in = weight + (v % kGates * units + unit) * from_stride;
    int64_t k = begin;
    if constexpr (!kHasScales<W>) {
      if (valid == kLanes) {
        for (; k + kLanes <= end; k += kLanes) transpose_block(in + k, from_stride, out + k * stride, stride);
      }
    }
    for (; k < end; ++k) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        out[(k - k % kTogether) * stride + lane * kTogether + k % kTogether] =
            lane < valid ? W(in[lane * from_stride + k]) : W(0);
      }
    }
  }

  template <class From>
  FASTRNN_INLINE void transpose_block(const From* in, int64_t from_stride, W* out, int64_t stride) const {
    using S = Simd<Isa, T>;
    typename S::V block[kLanes];
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) block[row] = S::load(in + row * from_stride);
    S::transpose(block);
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; row += kTogether) {
      if constexpr (kTogether == 2) {
        S::store_pair(out + row * stride, block[row], block[row + 1]);
      } else {
        S::store(out + row * stride, block[row]);
      }
    }
  }
};

}  // namespace fastrnn::cpu
