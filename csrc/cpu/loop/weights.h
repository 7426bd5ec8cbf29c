// The weights of a time loop: packed into panels, or read in place, as the plan says. Backward's are never frozen.
#pragma once

#include "../gemm/in_place.h"
#include "work_slice.h"

namespace fastrnn::cpu {

// weight (kGates * units, depth), multiplied along its rows; for the biases see Panels::pack_rows.
template <class Isa, class T, class W, int kGates>
class ForwardWeights {
 public:
  // Packed weights are stored in `memory`; with no memory it only measures how much is needed.
  ForwardWeights(const PanelGrid<Isa, T, kGates>& grid, WeightSource source, Arena<T>& memory)
      : source_(source), packed_{grid, nullptr, nullptr} {
    if (source == WeightSource::kInPlace) return;
    packed_.inits = memory.take(packed_.inits_size());
    packed_.data = memory.template take_as<W>(packed_.size());
  }

  // scales: of the weight's rows, if W has some.
  void set(const W* weight, const T* bias_a, const T* bias_b, unsigned separate_biases, const T* scales) {
    in_place_ = {packed_, weight, bias_a, bias_b, separate_biases};
    scales_ = scales;
  }

  // Packs the worker's share. Not inlined: all cells share it.
  [[gnu::noinline]] void prepare(const Worker& worker) const {
    if (source_ != WeightSource::kPacked) return;
    const Range mine = share(packed_.count(), worker.index, worker.count);
    for (int64_t i = mine.begin; i < mine.end; ++i) {
      packed_.pack_rows(i, in_place_.weight, in_place_.bias_a, in_place_.bias_b, in_place_.separate_biases, scales_);
    }
  }

  FASTRNN_INLINE int64_t count() const { return packed_.count(); }

  // See multiply_views.
  template <class Epilogue>
  FASTRNN_INLINE void multiply(const Range& panels, const OperandOf<T, W>& a, int64_t begin, int64_t end,
                               const Epilogue& epilogue) const {
    if constexpr (!kHasScales<W>) {
      if (source_ == WeightSource::kInPlace) {
        for (int64_t i = panels.begin; i < panels.end; ++i) in_place_.multiply(i, a, begin, end, epilogue);
        return;
      }
    }
    multiply_views<W>(
        packed_, panels, [&](int64_t i) FASTRNN_INLINE_LAMBDA { return view(i); }, a, begin, end, epilogue);
  }

 private:
  FASTRNN_INLINE PanelView<T, W> view(int64_t i) const {
    return {packed_.init(i), packed_.panel(i), packed_.view_stride(i)};
  }

  WeightSource source_;
  Panels<Isa, T, W, kGates> packed_;
  RowsInPlace<Isa, T, W, kGates> in_place_{};
  const T* scales_ = nullptr;
};

// weight (depth, units), multiplied along its columns. In place, whole panels are read from the matrix itself; the last
// one is packed if it is narrower, since the end of a row need not be the end of a vector.
template <class Isa, class T>
class BackwardWeights {
 public:
  // With no scratch it only measures how much is needed.
  BackwardWeights(const PanelGrid<Isa, T, 1>& grid, WeightSource source, Arena<T>& scratch)
      : pack_(source != WeightSource::kInPlace), packed_{grid, nullptr, nullptr} {
    if (pack_) {
      packed_.data = scratch.take(packed_.size());
    } else if (!is_whole(packed_.count() - 1)) {
      narrow_ = scratch.take(packed_.kWidth * grid.depth);
    }
  }

  void set(const T* weight) { weight_ = weight; }

  // Packs the worker's share. Not inlined: all cells share it.
  [[gnu::noinline]] void prepare(const Worker& worker) const {
    const int64_t count = packed_.count();
    if (pack_) {
      const Range mine = share(count, worker.index, worker.count);
      for (int64_t i = mine.begin; i < mine.end; ++i) packed_.pack_columns(i, weight_, packed_.units, packed_.panel(i));
    } else if (narrow_ && worker.index == 0) {
      packed_.pack_columns(count - 1, weight_, packed_.units, narrow_);
    }
  }

  FASTRNN_INLINE int64_t count() const { return packed_.count(); }

  // See multiply_views.
  template <class Epilogue>
  FASTRNN_INLINE void multiply(const Range& panels, const Operand<T>& a, int64_t begin, int64_t end,
                               const Epilogue& epilogue) const {
    multiply_views<T>(
        packed_, panels, [&](int64_t i) FASTRNN_INLINE_LAMBDA { return view(i); }, a, begin, end, epilogue);
  }

 private:
  FASTRNN_INLINE bool is_whole(int64_t i) const { return packed_.units_in(i) == packed_.kUnits; }

  FASTRNN_INLINE PanelView<T, T> view(int64_t i) const {
    alignas(64) static constexpr T kZeros[kMaxPanelVectors * Simd<Isa, T>::kLanes] = {};
    if (pack_) return {kZeros, packed_.panel(i), packed_.view_stride(i)};
    if (is_whole(i)) return {kZeros, weight_ + packed_.first_unit(i), packed_.units};
    return {kZeros, narrow_, packed_.view_stride(i)};
  }

  bool pack_;
  Panels<Isa, T, T, 1> packed_;
  const T* weight_ = nullptr;
  T* narrow_ = nullptr;
};

// Cells that torch.nn does not have call their epilogue through a pointer, from GEMMs that all of them share: inlining
// it at every tile cost half the compile time of a kernel file.
template <class Cell>
inline constexpr bool kOutOfLineEpilogue =
    Cell::kPerUnitWeights > 0 || Cell::kSecondPassGates > 0 || Cell::kActivatesOutput;

// A type-erased reference to an epilogue; see multiply_views.
template <class T>
class EpilogueRef {
 public:
  template <class Epilogue>
  explicit EpilogueRef(const Epilogue& epilogue)
      : epilogue_(&epilogue),
        prefetches_(epilogue.prefetches()),
        call_([](const void* pointer, int64_t row, int64_t unit, int lanes, const T* sums) {
          (*static_cast<const Epilogue*>(pointer))(row, unit, lanes, sums);
        }),
        prefetch_([](const void* pointer, int64_t row, int64_t unit) {
          static_cast<const Epilogue*>(pointer)->prefetch(row, unit);
        }) {}

  FASTRNN_INLINE bool prefetches() const { return prefetches_; }
  FASTRNN_INLINE void prefetch(int64_t row, int64_t unit) const { prefetch_(epilogue_, row, unit); }
  FASTRNN_INLINE void operator()(int64_t row, int64_t unit, int lanes, const T* sums) const {
    call_(epilogue_, row, unit, lanes, sums);
  }

 private:
  const void* epilogue_;
  bool prefetches_;
  void (*call_)(const void* epilogue, int64_t row, int64_t unit, int lanes, const T* sums);
  void (*prefetch_)(const void* epilogue, int64_t row, int64_t unit);
};

template <class Weights, class A, class T>
[[gnu::noinline]] void multiply_out_of_line(const Weights& weights, const Range& panels, const A& a, int64_t begin,
                                            int64_t end, const EpilogueRef<T>& epilogue) {
  weights.multiply(panels, a, begin, end, epilogue);
}

// A GEMM of a step, with its epilogue; see multiply_views.
template <bool kOutOfLine, class T, class Weights, class A, class Epilogue>
FASTRNN_INLINE void multiply_with_epilogue(const Weights& weights, const Range& panels, const A& a, int64_t begin,
                                           int64_t end, const Epilogue& epilogue) {
  if constexpr (kOutOfLine) {
    multiply_out_of_line(weights, panels, a, begin, end, EpilogueRef<T>(epilogue));
  } else {
    weights.multiply(panels, a, begin, end, epilogue);
  }
}

// Whether a step may have a second GEMM: that of a second-pass gate, or of a projection. It is not compiled for cells
// that have neither.
template <class Cell>
inline constexpr bool kMayHaveSecond = Cell::kSecondPassGates > 0 || Cell::kProjects;

// Step::per_unit_weights for a vector of units.
template <class Isa, class Cell, class T>
struct PerUnitWeights {
  using S = Simd<Isa, T>;
  typename S::V values[Cell::kPerUnitWeights > 0 ? Cell::kPerUnitWeights : 1];

  // weights (kPerUnitWeights, H)
  FASTRNN_INLINE PerUnitWeights(const T* weights, int64_t hidden, int64_t unit, int lanes) {
    for (int w = 0; w < Cell::kPerUnitWeights; ++w) values[w] = S::load(weights + w * hidden + unit, lanes);
  }
};

}  // namespace fastrnn::cpu
