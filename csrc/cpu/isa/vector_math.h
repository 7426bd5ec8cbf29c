// sigmoid and tanh of SIMD vectors. tests/kernels/test_vector_math.cpp pins their error in ulps, and that NaN stays
// NaN. Where e^-x is not a normal number, sigmoid is 0 or about 1e-38 (1e-308), close enough to its true value for any
// gate.
#pragma once

#include "../../cells/activations.h"
#include "vector_exp_log.h"

namespace fastrnn::cpu {

template <class Isa, class T>
struct VectorMath : VectorExpLog<Isa, T> {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using I = typename S::I;
  using C = ExpConstants<T>;

  static FASTRNN_INLINE V sigmoid(V x) {
    const Exp e = exp_of_minus(x);
    return reciprocal((e.minus_r * (e.minus_r * e.series - 1) + 1) * e.scale + 1);
  }

  static FASTRNN_INLINE V tanh(V x) {
    if constexpr (sizeof(T) == sizeof(float)) return rational_tanh(x);
    return exponential_tanh(x);
  }

 private:
  static constexpr bool kEstimates = requires(V x) { Isa::estimate_reciprocal(x); };

  // e^-x = scale * (1 + r + r^2 * series)
  struct Exp {
    V scale, minus_r, series;
  };

  static FASTRNN_INLINE Exp exp_of_minus(V x) {
    x = clamp(x, -C::kMax, -C::kMin);
    const V shifted = C::kRound - x * C::kLog2E;
    const V k = shifted - C::kRound;
    const V minus_r = (x + k * C::kLn2High) + k * C::kLn2Low;
    constexpr int kTerms = sizeof(C::kSeries) / sizeof(T);
    V series = S::broadcast(signed_term(kTerms - 1));
#pragma GCC unroll 16
    for (int n = kTerms - 2; n >= 0; --n) series = series * minus_r + signed_term(n);
    return {reinterpret_cast<V>(reinterpret_cast<I>(shifted) << C::kMantissaBits), minus_r, series};
  }

  // Coefficients of the series in -r.
  static constexpr T signed_term(int n) { return n % 2 == 0 ? C::kSeries[n] : -C::kSeries[n]; }

  // tanh x = x * P(x^2) / Q(x^2) of degrees 9 and 8, minimax in the relative error up to |x| = 9.02, beyond which tanh
  // is 1 to within half an ulp; the lowest coefficients are fixed at 1, the others were then varied by units in the
  // last place for the smallest error as computed. Rounding may take the quotient above 1.
  static FASTRNN_INLINE V rational_tanh(V x) {
    x = clamp(x, T(-9.02), T(9.02));
    const V square = x * x;
    V p = square * T(1.33190712e-8) + T(2.05834785e-5);
    V q = square * T(7.76201944e-7) + T(3.28309252e-4);
    p = p * square + T(3.49403475e-3);
    q = q * square + T(2.58710738e-2);
    p = p * square + T(1.33797169e-1);
    q = q * square + T(4.67130303e-1);
    const V quotient = divide(x * square * p + x, q * square + 1);
    return clamp(quotient, -1, 1);
  }

  // tanh |x| = |t / (2 + t)| with t = e^(-2|x|) - 1, which keeps full relative precision around zero.
  static FASTRNN_INLINE V exponential_tanh(V x) {
    const I sign_bit = reinterpret_cast<I>(S::broadcast(T(-0.0)));
    const I sign = reinterpret_cast<I>(x) & sign_bit;
    const V magnitude = reinterpret_cast<V>(reinterpret_cast<I>(x) ^ sign);
    const Exp e = exp_of_minus(2 * magnitude);
    const V tail = e.series * e.minus_r * e.minus_r - e.minus_r;
    const V t = e.scale * tail + (e.scale - 1);
    return reinterpret_cast<V>((reinterpret_cast<I>(t / (2 + t)) & ~sign_bit) | sign);
  }

  // NaN stays NaN.
  static FASTRNN_INLINE V clamp(V x, T least, T most) {
    return Isa::at_most(V(Isa::at_least(x, S::broadcast(least))), S::broadcast(most));
  }

  // 1 / x for x >= 1.
  static FASTRNN_INLINE V reciprocal(V x) {
    if constexpr (kEstimates) {
      const V y = Isa::estimate_reciprocal(x);
      return y == 0 ? y : refine(x, y);  // y is 0 for an infinite x, and refining it would compute 0 * inf
    } else {
      return 1 / x;
    }
  }

  // A Newton step for y, about 1 / x: doubles its correct bits.
  static FASTRNN_INLINE V refine(V x, V y) { return y * (1 - x * y) + y; }

  // a / b for b that is neither 0, infinite nor subnormal.
  static FASTRNN_INLINE V divide(V a, V b) {
    if constexpr (kEstimates) {
      const V y = refine(b, Isa::estimate_reciprocal(b)), quotient = a * y;
      return quotient - (quotient * b - a) * y;  // in this order -0 / b remains -0
    } else {
      return a / b;
    }
  }
};

}  // namespace fastrnn::cpu

namespace fastrnn {

template <>
struct Math<cpu::Simd<cpu::Isa, float>::V> : cpu::VectorMath<cpu::Isa, float> {};
template <>
struct Math<cpu::Simd<cpu::Isa, double>::V> : cpu::VectorMath<cpu::Isa, double> {};

}  // namespace fastrnn
