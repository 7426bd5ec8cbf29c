// The large GEMMs before and after the time loop, of operands that lie in memory as they like: blocks of both are
// packed and multiplied by the time loop's register tile.
//
// The depth is packed in blocks, and these are summed in parts, each part's sums added to those of the parts before. So
// a sum of thousands of terms loses little to rounding, and its bits depend neither on the number of threads nor on the
// plan.
#pragma once

#include "../../matrix.h"
#include "../kernels.h"
#include "../team/team.h"
#include "panels.h"

namespace fastrnn::cpu {

// As StoreSums, for a matrix whose columns are not contiguous.
template <class T, bool kAdd>
struct ScatterSums {
  Matrix<T> out;

  FASTRNN_INLINE bool prefetches() const { return false; }
  FASTRNN_INLINE void prefetch(int64_t, int64_t) const {}
  FASTRNN_INLINE void operator()(int64_t row, int64_t column, int lanes, const T* sums) const {
    T* to = out.data + row * out.row_stride + column * out.column_stride;
    for (int lane = 0; lane < lanes; ++lane, to += out.column_stride) *to = kAdd ? *to + sums[lane] : sums[lane];
  }
};

template <class Isa, class T, class W>
class PanelGemmShare {
  using S = Simd<Isa, T>;
  using Packed = Panels<Isa, T, T, 1>;
  static constexpr int kLanes = S::kLanes;

 public:
  // Values of each thread's scratch.
  static int64_t scratch_size(const PanelGemm<T, W>& gemm) {
    const PanelGemmShare share(gemm);
    return (share.panels_at_once() * Packed::kWidth + (share.transposes_a() ? kGemmRows : 0)) * share.depth_at_once();
  }

  PanelGemmShare(const PanelGemm<T, W>& gemm, const GemmPlan& plan, const Worker& worker) : PanelGemmShare(gemm) {
    const int64_t panels = grid_of(0).count(), rows = gemm.out.rows;
    row_range_ = plan.by_rows ? share(rows, worker.index, worker.count) : Range{0, rows};
    panel_range_ = plan.by_rows ? Range{0, panels} : share(panels, worker.index, worker.count);
    packed_ = gemm.scratch + worker.index * scratch_size(gemm);
    rows_of_a_ = packed_ + panels_at_once() * Packed::kWidth * depth_at_once();
  }

  void run() const {
    int64_t begin = 0;
    // At least once: an empty sum is 0.
    do {
      const Range depth{begin, smaller(begin + kGemmDepth, gemm_.a.columns)};
      for (int64_t first = panel_range_.begin; first < panel_range_.end; first += kPanelsAtOnce) {
        multiply_panels({first, smaller(first + kPanelsAtOnce, panel_range_.end)}, depth);
      }
      begin += kGemmDepth;
    } while (begin < gemm_.a.columns);
  }

 private:
  explicit PanelGemmShare(const PanelGemm<T, W>& gemm) : gemm_(gemm) {}

  bool transposes_a() const { return gemm_.a.column_stride != 1; }
  int64_t panels_at_once() const { return smaller(kPanelsAtOnce, grid_of(0).count()); }
  int64_t depth_at_once() const { return smaller(kGemmDepth, gemm_.a.columns); }

  Packed grid_of(int64_t depth) const { return {{gemm_.out.columns, depth}, nullptr, nullptr}; }

  void multiply_panels(const Range& panels, const Range& depth) const {
    const Packed grid = grid_of(depth.end - depth.begin);
    const Matrix<const W> b = gemm_.b.row_range(depth.begin, depth.end);
    for (int64_t i = panels.begin; i < panels.end; ++i) {
      if (b.row_stride == 1) {
        grid.pack_values(i, b.data, b.column_stride, packed(i - panels.begin));
      } else if (!is_read_in_place(grid, i)) {
        grid.pack_columns(i, b.data, b.row_stride, packed(i - panels.begin));
      }
    }
    for (int64_t first = row_range_.begin; first < row_range_.end; first += kGemmRows) {
      const int64_t rows = smaller(kGemmRows, row_range_.end - first);
      const Operand<T> a = rows_of_a(first, rows, depth);
      int64_t begin = 0;
      do {
        const Range part{begin, smaller(begin + kSumDepth, a.length)};
        add_part(grid, panels, depth.begin, part, a, gemm_.out.row_range(first, first + rows));
        begin += kSumDepth;
      } while (begin < a.length);
    }
  }

  // The sums over a part of the packed depth, which begins at `depth`: `out` is still in the cache from the part
  // before.
  void add_part(const Packed& grid, const Range& panels, int64_t depth, const Range& part, const Operand<T>& rows_of_a,
                const Matrix<T>& out) const {
    alignas(64) static constexpr T kZeros[Packed::kWidth] = {};
    const auto view = [&](int64_t i) FASTRNN_INLINE_LAMBDA -> PanelView<T, T> {
      if constexpr (std::is_same_v<T, W>) {
        if (is_read_in_place(grid, i)) {
          const T* first = gemm_.b.data + (depth + part.begin) * gemm_.b.row_stride;
          return {kZeros, first + grid.first_unit(i), gemm_.b.row_stride};
        }
      }
      const int64_t stride = grid.view_stride(i);
      return {kZeros, packed(i - panels.begin) + part.begin * stride, stride};
    };
    const Operand<T> a{rows_of_a.data + part.begin, rows_of_a.stride, part.end - part.begin, 1, {0}};
    const auto multiply = [&](const auto& epilogue) {
      multiply_views<T>(grid, panels, view, a, 0, out.rows, epilogue);
    };
    const bool add = gemm_.accumulate || depth + part.begin > 0;
    if (out.column_stride == 1) {
      add ? multiply(StoreSums<Isa, T, true>{out.data, out.row_stride})
          : multiply(StoreSums<Isa, T>{out.data, out.row_stride});
    } else {
      add ? multiply(ScatterSums<T, true>{out}) : multiply(ScatterSums<T, false>{out});
    }
  }

  T* packed(int64_t place) const { return packed_ + place * Packed::kWidth * depth_at_once(); }

  // A panel that one tile reads is not worth packing.
  bool is_read_in_place(const Packed& grid, int64_t i) const {
    return std::is_same_v<T, W> && gemm_.b.row_stride != 1 && gemm_.out.rows <= kMaxTileRows &&
           grid.units_in(i) % kLanes == 0;
  }

  // Transposed where its columns, not its rows, are contiguous.
  Operand<T> rows_of_a(int64_t first, int64_t rows, const Range& depth) const {
    const Matrix<const T> a = gemm_.a.row_range(first, first + rows).column_range(depth.begin, depth.end);
    if (!transposes_a()) return {a.data, a.row_stride, a.columns, 1, {0}};
    const int64_t stride = depth_at_once();
    for (int64_t row = 0; row < rows; row += kLanes) {
      const int some_rows = static_cast<int>(smaller(kLanes, rows - row));
      for (int64_t k = 0; k < a.columns; k += kLanes) {
        const int some_columns = static_cast<int>(smaller(kLanes, a.columns - k));
        transpose_block(a.data + row + k * a.column_stride, a.column_stride, some_columns,
                        rows_of_a_ + row * stride + k, stride, some_rows);
      }
    }
    return {rows_of_a_, stride, a.columns, 1, {0}};
  }

  // `to` (rows, columns) = the transpose of `from` (columns, rows).
  static FASTRNN_INLINE void transpose_block(const T* from, int64_t from_stride, int columns, T* to, int64_t to_stride,
                                             int rows) {
    typename S::V block[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) {
      block[k] = k < columns ? S::load(from + k * from_stride, rows) : typename S::V{};
    }
    S::transpose(block);
#pragma GCC unroll 16
    for (int row = 0; row < kLanes; ++row) {
      if (row < rows) S::store(to + row * to_stride, block[row], columns);
    }
  }

  const PanelGemm<T, W>& gemm_;
  Range row_range_{}, panel_range_{};
  T *packed_ = nullptr, *rows_of_a_ = nullptr;  // panels of b; (kGemmRows, depth_at_once())
};

template <class Isa, class T, class W>
void multiply_panels(const PanelGemm<T, W>& gemm, const GemmPlan& plan) {
  struct Context {
    const PanelGemm<T, W>& gemm;
    const GemmPlan& plan;
  } context{gemm, plan};
  run_team(
      plan.threads,
      [](void* pointer, Worker& worker) {
        const Context& call = *static_cast<Context*>(pointer);
        PanelGemmShare<Isa, T, W>(call.gemm, call.plan, worker).run();
      },
      &context);
}

}  // namespace fastrnn::cpu
