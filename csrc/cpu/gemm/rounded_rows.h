// The left operand of a product, in the form in which weights stored as W are multiplied: as it is, or rounded to 16
// bits, each row with a scale.
#pragma once

#include "../loop/work_slice.h"

namespace fastrnn::cpu {

template <class Isa, class T, class W>
class RoundedRows {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Integers = typename S::Integers;
  static constexpr int kLanes = S::kLanes;

 public:
  // For products of so many batch rows, or as many times that; with no scratch it only measures how much is needed.
  RoundedRows(int64_t batch, int64_t times, int64_t depth, const Plan& plan, Arena<T>& scratch) {
    if constexpr (kHasScales<W>) {
      const bool shared = plan.split == Split::kUnits || plan.split == Split::kBatch;
      const int64_t workers = shared ? plan.threads : 1;
      rows_ = times * (plan.split == Split::kBatch ? ceil_div(batch, plan.threads) : batch);
      stride_ = ceil_div(depth, kLineValues) * kLineValues;
      each_ = workers > 1;
      scales_ = scratch.take(workers * rows_);
      values_ = scratch.template take_as<int16_t>(workers * rows_ * stride_);
    }
  }

  // Rows [begin, end) of `a`, which stay where they are until the worker asks for others.
  FASTRNN_INLINE OperandOf<T, W> operator()(const Operand<T>& a, int64_t begin, int64_t end,
                                            const Worker& worker) const {
    if constexpr (kHasScales<W>) {
      const int64_t first = (each_ ? worker.index * rows_ : 0) - begin;
      for (int64_t row = begin; row < end; ++row) {
        scales_[first + row] = round_row(a.data + row * a.stride, a.length, values_ + (first + row) * stride_);
      }
      return {{values_ + first * stride_, stride_, a.length, 1, {0}}, scales_ + first};
    } else {
      return a;
    }
  }

 private:
  static constexpr int64_t kLineValues = 32;

  // Writes whole vectors; returns the scale: NaN if a value is not finite, and 0 for what is too small to have one. Of
  // float's bits without the sign, the largest integer is the largest magnitude, or NaN.
  [[gnu::noinline]] static T round_row(const T* from, int64_t length, int16_t* to) {
    typedef int16_t Half __attribute__((vector_size(kLanes * sizeof(int16_t)), aligned(alignof(int16_t)), may_alias));
    constexpr int32_t kInfinity = 0x7f800000;
    constexpr T kSmallest = 0x1p-126f, kToInteger = 0x1.8p23f;
    Integers largest{};
    for (int64_t k = 0; k < length; k += kLanes) {
      const V x = S::load(from + k, static_cast<int>(smaller(kLanes, length - k)));
      const Integers bits = reinterpret_cast<Integers>(x) & 0x7fffffff;
      largest = bits > largest ? bits : largest;
    }
    int32_t most = 0;
    for (int lane = 0; lane < kLanes; ++lane) most = largest[lane] > most ? largest[lane] : most;
    const T magnitude = __builtin_bit_cast(T, most), scale = magnitude / kMostFactor;
    const bool some = most < kInfinity && scale >= kSmallest;
    const T inverse = some ? 1 / scale : 0;
    for (int64_t k = 0; k < length; k += kLanes) {
      const V x = in_register(S::load(from + k, static_cast<int>(smaller(kLanes, length - k))) * inverse);
      const Integers rounded = reinterpret_cast<Integers>(x + kToInteger);  // the lower bits
      *reinterpret_cast<Half*>(to + k) = __builtin_convertvector(rounded, Half);
    }
    return most < kInfinity ? (some ? scale : 0) : magnitude - magnitude;
  }

  int64_t rows_ = 0, stride_ = 0;  // of each worker; values
  bool each_ = false;              // whether each worker has rows of its own
  T* scales_ = nullptr;
  int16_t* values_ = nullptr;
};

}  // namespace fastrnn::cpu
