// exp and tanh of SIMD vectors: within 1.1 and 2.5 units in the last place (tests/kernels/test_vector_math.cpp). NaN
// stays NaN, and e^x is infinite where it should be; below C::kMin it stays at e^kMin, which no activation can tell
// from 0.
#pragma once

#include "../cells/activations.h"
#include "vector.h"

namespace fastrnn::cpu {

template <class T>
struct ExpConstants;

// x = k * ln2 + r with |r| <= ln2 / 2. kLn2High has trailing zeros, so that k * kLn2High is exact without FMA too.
// kRound added to a number leaves its nearest integer in the lowest mantissa bits.
// kTerms: the Taylor series of e^r up to r^kTerms / kTerms! leaves less than half an ulp.
template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504088896341f;
  static constexpr float kLn2High = 0.693359375f;
  static constexpr float kLn2Low = -2.12194440054690583e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kMin = -86.5f;  // k - 1 is still the exponent of a normal number
  static constexpr float kMax = 88.8f;   // beyond the largest x whose e^x is finite
  static constexpr int kTerms = 7;
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.44269504088896340736;
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kMin = -707.5;
  static constexpr double kMax = 709.9;
  static constexpr int kTerms = 13;
};

template <class Isa, class T>
struct VectorMath {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using I = typename S::I;
  using C = ExpConstants<T>;

  // e^x = 2 * half_scale * (1 + tail). Half, because the whole power of two may overflow where e^x does not.
  struct Parts {
    V half_scale, tail;
  };

  static FASTRNN_INLINE Parts split_exp(V x) {
    x = Isa::at_least(x, S::broadcast(C::kMin));
    x = Isa::at_most(x, S::broadcast(C::kMax));
    const V shifted = x * C::kLog2E + C::kRound;
    const V k = shifted - C::kRound;
    const V r = (x - k * C::kLn2High) - k * C::kLn2Low;
    V tail = S::broadcast(T(1) / factorial(C::kTerms));
#pragma GCC unroll 16
    for (int n = C::kTerms - 1; n >= 2; --n) tail = tail * r + T(1) / factorial(n);
    tail = tail * r * r + r;
    const I exponent = (reinterpret_cast<I>(shifted) + (C::kBias - 1)) << C::kMantissaBits;
    return {reinterpret_cast<V>(exponent), tail};
  }

  static FASTRNN_INLINE V exp(V x) {
    const Parts e = split_exp(x);
    return 2 * (e.half_scale * e.tail + e.half_scale);
  }

  // tanh |x| = |t / (2 + t)| with t = e^(-2|x|) - 1, which keeps full relative precision around zero.
  static FASTRNN_INLINE V tanh(V x) {
    const I sign_bit = reinterpret_cast<I>(S::broadcast(T(-0.0)));
    const I sign = reinterpret_cast<I>(x) & sign_bit;
    const V magnitude = reinterpret_cast<V>(reinterpret_cast<I>(x) ^ sign);
    const Parts e = split_exp(-2 * magnitude);
    const V scale = 2 * e.half_scale;
    const V t = scale * e.tail + (scale - 1);
    return reinterpret_cast<V>((reinterpret_cast<I>(divide(t, 2 + t)) & ~sign_bit) | sign);
  }

  // 1 / x of an x of at least 1, as sigmoid has it.
  static FASTRNN_INLINE V reciprocal(V x) {
    if constexpr (kEstimates) {
      const V y = Isa::estimate_reciprocal(x);
      return y == 0 ? y : refine(x, y);  // an infinite x has 0, and the refinement would be 0 * inf
    } else {
      return 1 / x;
    }
  }

 private:
  static constexpr bool kEstimates = requires(V x) { Isa::estimate_reciprocal(x); };

  // y is about 1 / x; a Newton step doubles its bits.
  static FASTRNN_INLINE V refine(V x, V y) { return y * (1 - x * y) + y; }

  // a / b of an ordinary b.
  static FASTRNN_INLINE V divide(V a, V b) {
    if constexpr (kEstimates) {
      const V y = refine(b, Isa::estimate_reciprocal(b)), quotient = a * y;
      return (a - quotient * b) * y + quotient;
    } else {
      return a / b;
    }
  }

  static constexpr T factorial(int n) { return n <= 1 ? T(1) : T(n) * factorial(n - 1); }
};

}  // namespace fastrnn::cpu

namespace fastrnn {

template <>
struct Math<cpu::Simd<cpu::Isa, float>::V> : cpu::VectorMath<cpu::Isa, float> {};
template <>
struct Math<cpu::Simd<cpu::Isa, double>::V> : cpu::VectorMath<cpu::Isa, double> {};

}  // namespace fastrnn
