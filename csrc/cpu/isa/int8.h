// 8-bit integers as a storage type for weights, each row of a matrix with a scale of its own. All arithmetic is in
// float.
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

}  // namespace fastrnn::cpu
