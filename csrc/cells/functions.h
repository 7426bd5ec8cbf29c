// Elementwise functions, generic over the value type V: float, double, or a SIMD vector of either. At the edges of
// their domains, at infinity and for NaN they give what torch's functions of the same names give, except that of SIMD
// vectors exp is 0 where it would be subnormal. tests/kernels/test_vector_math.cpp pins their error in ulps.
#pragma once

#include <cstdint>
#include <type_traits>

#include "activations.h"

namespace fastrnn {

template <class T>
struct ScalarFunctions {
  static FASTRNN_INLINE T constant(double x) { return static_cast<T>(x); }
  static FASTRNN_INLINE T exp(T x) { return std::exp(x); }
  static FASTRNN_INLINE T expm1(T x) { return std::expm1(x); }
  static FASTRNN_INLINE T log(T x) { return std::log(x); }
  static FASTRNN_INLINE T log1p(T x) { return std::log1p(x); }
  static FASTRNN_INLINE T log1p_of_fraction(T x) { return std::log1p(x); }
  static FASTRNN_INLINE T sqrt(T x) { return std::sqrt(x); }
  static FASTRNN_INLINE T abs(T x) { return std::fabs(x); }
};

template <class V>
using Functions = std::conditional_t<std::is_floating_point_v<V>, ScalarFunctions<V>, Math<V>>;

template <class V>
FASTRNN_INLINE V constant(double x) {
  return Functions<V>::constant(x);
}

template <class V>
FASTRNN_INLINE V tanh(V x) {
  return Math<V>::tanh(x);
}

template <class V>
FASTRNN_INLINE V exp(V x) {
  return Functions<V>::exp(x);
}

// e^x - 1, precise around zero.
template <class V>
FASTRNN_INLINE V expm1(V x) {
  return Functions<V>::expm1(x);
}

template <class V>
FASTRNN_INLINE V log(V x) {
  return Functions<V>::log(x);
}

// log(1 + x), precise around zero.
template <class V>
FASTRNN_INLINE V log1p(V x) {
  return Functions<V>::log1p(x);
}

template <class V>
FASTRNN_INLINE V sqrt(V x) {
  return Functions<V>::sqrt(x);
}

template <class V>
FASTRNN_INLINE V rsqrt(V x) {
  return 1 / sqrt<V>(x);
}

template <class V>
FASTRNN_INLINE V abs(V x) {
  return Functions<V>::abs(x);
}

// condition: a bool, or for SIMD vectors what comparing two of them gives.
template <class V, class Condition>
FASTRNN_INLINE V select(Condition condition, V a, V b) {
  return condition ? a : b;
}

// NaN if either is.
template <class V>
FASTRNN_INLINE V minimum(V a, V b) {
  const V least = a < b ? a : b;  // b if either is NaN
  return a == a ? least : a;
}

template <class V>
FASTRNN_INLINE V maximum(V a, V b) {
  const V greatest = a > b ? a : b;
  return a == a ? greatest : a;
}

// log(1 + e^x): x for large x, e^x for very negative ones.
template <class V>
FASTRNN_INLINE V log1p_exp(V x) {
  const V positive = x > 0 ? x : V{};
  return positive + Functions<V>::log1p_of_fraction(exp<V>(-abs<V>(x)));
}

// x^n for n from 0 to 15.
template <class V>
FASTRNN_INLINE V small_power(V x, int n) {
  const V square = x * x, fourth = square * square;
  V y = n & 1 ? x : constant<V>(1);
  if (n & 2) y = y * square;
  if (n & 4) y = y * fourth;
  if (n & 8) y = y * (fourth * fourth);
  return y;
}

// x^exponent, NaN for a negative x unless the exponent is an integer. Where the exponent is known at compile time, so
// is the branch. Unless the exponent is a small integer or half of one, the relative error grows with
// |log(x^exponent)|, since it is that of the logarithm times the exponent.
template <class V>
FASTRNN_INLINE V power(V x, double exponent) {
  const double magnitude = exponent < 0 ? -exponent : exponent;
  if (magnitude <= 15.5 && 2 * magnitude == static_cast<int>(2 * magnitude)) {
    const int halves = static_cast<int>(2 * magnitude);
    const V whole = small_power<V>(x, halves / 2), y = halves % 2 ? V(whole * sqrt<V>(x)) : whole;
    return exponent < 0 ? V(1 / y) : y;
  }
  const bool exact = magnitude < 0x1p53;  // larger ones are all even
  if (!exact || magnitude == static_cast<double>(static_cast<int64_t>(magnitude))) {
    const V y = exp<V>(constant<V>(exponent) * log<V>(abs<V>(x)));
    return exact && static_cast<int64_t>(magnitude) % 2 ? select<V>(x < 0, -y, y) : y;
  }
  return exp<V>(constant<V>(exponent) * log<V>(x));
}

}  // namespace fastrnn
