// Recurrent weights packed into panels: what one tile reads, in the order in which it reads it.
//
// A panel covers up to kMaxPanelVectors vectors: `gates` vectors for each vector of units. Panel i is a matrix
// [1 + depth][vectors][lanes] whose row 0 is what the sums start from (the biases). Lanes past the last unit are zero.
#pragma once

#include <cstdint>

#include "tile.h"

namespace fastrnn::cpu {

FASTRNN_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTRNN_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTRNN_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A contiguous part of 0..count for one of `parts`.
struct Range {
  int64_t begin, end;
};
FASTRNN_INLINE Range share(int64_t count, int64_t part, int64_t parts) {
  return {count * part / parts, count * (part + 1) / parts};
}

template <class Isa, class T>
struct Panels {
  static constexpr int kLanes = Simd<Isa, T>::kLanes;
  // Depth packed at a time: the lines that one block writes stay in the first-level cache.
  static constexpr int64_t kDepthBlock = 64;

  T* data;
  int64_t units;  // columns of the product, per gate
  int64_t depth;
  int gates;

  FASTRNN_INLINE int unit_vectors() const { return kMaxPanelVectors / gates; }
  FASTRNN_INLINE int64_t unit_step() const { return int64_t{unit_vectors()} * kLanes; }
  FASTRNN_INLINE int64_t count() const { return ceil_div(units, unit_step()); }
  FASTRNN_INLINE int64_t stride() const { return (1 + depth) * gates * unit_step(); }
  FASTRNN_INLINE int64_t size() const { return count() * stride(); }
  FASTRNN_INLINE T* panel(int64_t i) const { return data + i * stride(); }
  FASTRNN_INLINE int64_t first_unit(int64_t i) const { return i * unit_step(); }
  FASTRNN_INLINE int64_t units_in(int64_t i) const { return smaller(unit_step(), units - first_unit(i)); }
  FASTRNN_INLINE int unit_vectors_in(int64_t i) const { return static_cast<int>(ceil_div(units_in(i), kLanes)); }

  // weight (gates * units, depth): sums run along its rows, as in forward. bias_a, bias_b (gates * units) or null
  // start the sums; bias_a stays out for gate `apart`.
  void pack_rows(int64_t i, const T* weight, const T* bias_a, const T* bias_b, int apart) const {
    const int width = unit_vectors_in(i) * gates * kLanes;
    T* out = panel(i);
    for (int64_t block = 0; block < depth + 1; block += kDepthBlock) {
      for (int column = 0; column < width; ++column) {
        const int gate = column / kLanes % gates;
        const int64_t unit = first_unit(i) + column / (gates * kLanes) * kLanes + column % kLanes;
        const bool padding = unit >= units;
        const int64_t source = gate * units + unit;
        for (int64_t row = block; row < smaller(block + kDepthBlock, depth + 1); ++row) {
          T value = 0;
          if (!padding) {
            if (row > 0) {
              value = weight[source * depth + row - 1];
            } else {
              if (bias_a && gate != apart) value += bias_a[source];
              if (bias_b) value += bias_b[source];
            }
          }
          out[row * width + column] = value;
        }
      }
    }
  }

  // weight (depth, units): sums run along its columns, as in backward. One gate, no bias.
  void pack_columns(int64_t i, const T* weight) const {
    const int width = unit_vectors_in(i) * kLanes;
    const int64_t valid = units_in(i);
    T* out = panel(i);
    for (int column = 0; column < width; ++column) out[column] = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const T* in = weight + k * units + first_unit(i);
      out += width;
      for (int64_t column = 0; column < width; ++column) out[column] = column < valid ? in[column] : T(0);
    }
  }

  // Rows [begin, end) of `a` times panel i, tile by tile: visit(row, unit, lanes, sums) gets each row's vectors, with
  // sums pointing at `gates` vectors of `lanes` valid lanes.
  template <class Visit>
  FASTRNN_INLINE void multiply(int64_t i, const Operand<T>& a, int64_t begin, int64_t end, const Visit& visit) const {
    alignas(64) T sums[kMaxTileRows * kMaxPanelVectors * kLanes];
    const int unit_vecs = unit_vectors_in(i);
    const int vectors = unit_vecs * gates;
    const int64_t tiles = ceil_div(end - begin, tile_rows<Isa>(vectors));
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const Range rows = share(end - begin, tile, tiles);
      const int count = static_cast<int>(rows.end - rows.begin);
      choose_tile<Isa, T>(count, vectors)(a, begin + rows.begin, panel(i), sums);
      for (int row = 0; row < count; ++row) {
        for (int uv = 0; uv < unit_vecs; ++uv) {
          const int64_t unit = first_unit(i) + uv * kLanes;
          const int lanes = static_cast<int>(smaller(kLanes, units - unit));
          visit(begin + rows.begin + row, unit, lanes, sums + (row * vectors + uv * gates) * kLanes);
        }
      }
    }
  }
};

}  // namespace fastrnn::cpu
