// bfloat16 as a storage type for weights: the upper half of a float. All arithmetic is in float.
#pragma once

#include <cstdint>

#include "../../cells/portable.h"

namespace fastrnn::cpu {

struct Bf16 {
  uint16_t bits;

  Bf16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  explicit FASTRNN_INLINE Bf16(float value) {
    const uint32_t wide = __builtin_bit_cast(uint32_t, value);
    bits = static_cast<uint16_t>(value == value ? (wide + 0x7fff + (wide >> 16 & 1)) >> 16 : wide >> 16 | 0x40);
  }
  explicit FASTRNN_INLINE operator float() const { return __builtin_bit_cast(float, uint32_t{bits} << 16); }
};

}  // namespace fastrnn::cpu
