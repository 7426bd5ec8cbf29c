// 8-bit integers as a storage type for weights, each row of a matrix with a scale of its own.
//
// What they are multiplied by is rounded to 16 bits, each of its rows with a scale, too: at H = 512, products of
// integers are three times as fast as widening to float (AVX-512, 2026-11-29), and their sums exact in any order. The
// error is far below that of the weights' 8 bits.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../cells/portable.h"

namespace fastrnn::cpu {

struct Int8 {
  int8_t value;

  Int8() = default;
  explicit FASTRNN_INLINE Int8(int number) : value(static_cast<int8_t>(number)) {}
};

// Whether weights stored as W stand for their products with a scale. They are always packed ahead.
template <class W>
inline constexpr bool kHasScales = std::is_same_v<W, Int8>;

// What weights stored as W are multiplied by, where a call's data are T.
template <class T, class W>
using Factor = std::conditional_t<kHasScales<W>, int16_t, T>;

constexpr int kMostFactor = 32767;
// So many products of a weight and a factor have a sum of 32 bits.
constexpr int64_t kIntegerDepth = 512;
static_assert(kIntegerDepth * 127 * kMostFactor <= INT32_MAX);

}  // namespace fastrnn::cpu
