// exp, log, square root and their like, of SIMD vectors: what cells/functions.h builds on.
#pragma once

#include "vector.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fastrnn::cpu {

template <class T>
struct ExpConstants;

// x = k * ln2 + r with |r| <= ln2 / 2. kLn2High has trailing zeros, so that k * kLn2High is exact without FMA too.
// kRound added to a number leaves its nearest integer in the lowest mantissa bits; the exponent's bias is already in
// it. kSeries: e^r = 1 + r + kSeries[0] * r^2 + kSeries[1] * r^3 + ..., to less than half an ulp.
template <>
struct ExpConstants<float> {
  static constexpr float kLog2E = 1.44269504088896341f;
  static constexpr float kLn2High = 0.693359375f;
  static constexpr float kLn2Low = -2.12194440054690583e-4f;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr float kRound = 12582912.0f + kBias;  // 1.5 * 2^23
  static constexpr float kMin = -87.0f;                 // e^kMin is a normal number
  static constexpr float kMax = 88.8f;               // beyond the largest x whose e^x is finite, and k is at most 128
  static constexpr float kLeastNormal = -87.33654f;  // the least and the largest x whose e^x is a normal number
  static constexpr float kMostFinite = 88.72283f;
  static constexpr float kSeries[] = {0.499999934521f, 0.166665206853f, 0.0416683872015f, 0.00836871032702f,
                                      0.00138146246783f};  // minimax in the relative error
};

template <>
struct ExpConstants<double> {
  static constexpr double kLog2E = 1.44269504088896340736;
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr double kRound = 6755399441055744.0 + kBias;  // 1.5 * 2^52
  static constexpr double kMin = -708.0;
  static constexpr double kMax = 709.9;
  static constexpr double kLeastNormal = -708.39641853226410;
  static constexpr double kMostFinite = 709.78271289338397;
  static constexpr double kSeries[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                       1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                       1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};  // Taylor
};

// For log(1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), minimax in the relative error. f32: the coefficients from f^3 on.
// f64: R of log(1 + f) = f - f^2 / 2 + s * (f^2 / 2 + s^2 * R(s^2)), where s = f / (2 + f).
template <class T>
struct LogConstants;

template <>
struct LogConstants<float> {
  static constexpr float kSqrtHalf = 0.707106781f;
  static constexpr float kLeastNormal = 0x1p-126f;
  static constexpr float kMantissaUnit = 0x1p23f;
  static constexpr float kSeries[] = {0.333333316822f, -0.250008210703f, 0.200012282572f, -0.166233574597f,
                                      0.14201731542f,  -0.131601534404f, 0.127617387936f, -0.0763477308065f};
};

template <>
struct LogConstants<double> {
  static constexpr double kSqrtHalf = 0.70710678118654752440;
  static constexpr double kLeastNormal = 0x1p-1022;
  static constexpr double kMantissaUnit = 0x1p52;
  static constexpr double kSeries[] = {0.66666666666667344587, 0.39999999999414325817, 0.28571428742473600997,
                                       0.22222198563678886355, 0.181835648530702758,   0.15314036268539700581,
                                       0.14796100351891690312};
};

// An intrinsic, since the vector extensions have no square root.
#if defined(__AVX512F__)
FASTRNN_INLINE __m512 square_root(__m512 x) { return _mm512_maskz_sqrt_ps(0xffff, x); }
FASTRNN_INLINE __m512d square_root(__m512d x) { return _mm512_maskz_sqrt_pd(0xff, x); }
#elif defined(__AVX2__)
FASTRNN_INLINE __m256 square_root(__m256 x) { return _mm256_sqrt_ps(x); }
FASTRNN_INLINE __m256d square_root(__m256d x) { return _mm256_sqrt_pd(x); }
#elif defined(__aarch64__)
FASTRNN_INLINE float32x4_t square_root(float32x4_t x) { return vsqrtq_f32(x); }
FASTRNN_INLINE float64x2_t square_root(float64x2_t x) { return vsqrtq_f64(x); }
#else
FASTRNN_INLINE __m128 square_root(__m128 x) { return _mm_sqrt_ps(x); }
FASTRNN_INLINE __m128d square_root(__m128d x) { return _mm_sqrt_pd(x); }
#endif

template <class Isa, class T>
struct VectorExpLog {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using I = typename S::I;
  using E = ExpConstants<T>;
  using L = LogConstants<T>;

  static FASTRNN_INLINE V constant(double x) { return S::broadcast(static_cast<T>(x)); }
  static FASTRNN_INLINE V sqrt(V x) { return square_root(x); }
  static FASTRNN_INLINE V abs(V x) { return as_value(as_bits(x) & ~as_bits(constant(-0.0))); }

  // Subnormal results are 0. k is added to the exponent of e^r, not multiplied as 2^k: where the result is close to the
  // largest finite number, 2^k no longer is one.
  static FASTRNN_INLINE V exp(V x) {
    const Reduced e = reduce(x);
    const V y = as_value(as_bits(e.minus_one + 1) + (as_bits(e.shifted) << E::kMantissaBits));
    return x <= E::kMostFinite ? V(x >= E::kLeastNormal ? y : V{}) : V(x + constant(kInfinity));
  }

  // 2 * (2^(k-1) * (e^r - 1) + 2^(k-1) - 1/2): 2^(k-1) is finite for every k.
  static FASTRNN_INLINE V expm1(V x) {
    const Reduced e = reduce(V(Isa::at_least(x, constant(-E::kMantissaBits))));  // below, the result is -1
    const V scale = as_value((as_bits(e.shifted) << E::kMantissaBits) + as_bits(constant(0.5)));
    const V half = scale * e.minus_one + (scale - T(0.5));
    const V y = x <= E::kMostFinite ? V(half + half) : V(x + constant(kInfinity));
    return is_tiny(x) ? x : y;
  }

  static FASTRNN_INLINE V log(V x) {
    // Subnormal numbers are scaled to normal ones.
    const auto small = x < L::kLeastNormal;
    const V normal = small ? V(x * (2 * L::kMantissaUnit)) : x;
    const V offset =
        small ? constant(L::kMantissaUnit + E::kBias + E::kMantissaBits + 1) : constant(L::kMantissaUnit + E::kBias);
    // x = 2^k * (1 + f). Seen as an integer, a number from 2^k * sqrt(1/2) on gets the exponent k from this sum.
    const I sqrt_half = as_bits(constant(L::kSqrtHalf)), mantissa = as_bits(constant(L::kMantissaUnit));
    const I bits = as_bits(normal) + (as_bits(constant(1)) - sqrt_half);
    const V k = as_value((bits >> E::kMantissaBits) | mantissa) - offset;
    const V f = as_value((bits & (~I{} >> (8 * sizeof(T) - E::kMantissaBits))) + sqrt_half) - 1;
    const V y = k * E::kLn2High + (f + (log1p_tail(f) + k * E::kLn2Low));
    const V positive = x < constant(kInfinity) ? y : x;
    return x > 0 ? positive : V(x == 0 ? constant(-kInfinity) : constant(kNan));
  }

  static FASTRNN_INLINE V log1p(V x) {
    const V sum = x + 1, rounded_off = x - (sum - 1), logarithm = log(sum);
    const V precise = logarithm + rounded_off / sum;
    const V y = logarithm - logarithm == 0 ? precise : logarithm;  // NaN would come of an infinite one's correction
    return is_tiny(x) ? x : y;
  }

  // log(1 + x) for x from 0 to 1, or NaN.
  static FASTRNN_INLINE V log1p_of_fraction(V x) {
    const auto large = x > 2 * L::kSqrtHalf - 1;
    const V f = large ? V(x * T(0.5) - T(0.5)) : x;
    const V high = large ? constant(E::kLn2High) : V{}, low = large ? constant(E::kLn2Low) : V{};
    return high + (f + (log1p_tail(f) + low));
  }

 private:
  static constexpr double kInfinity = __builtin_inf(), kNan = __builtin_nan("");

  static FASTRNN_INLINE I as_bits(V v) { return reinterpret_cast<I>(v); }
  static FASTRNN_INLINE V as_value(I bits) { return reinterpret_cast<V>(bits); }

  // Whether x is so close to 0 that log(1 + x) and e^x - 1 round to it. Even the sign of -0 is then right.
  static FASTRNN_INLINE auto is_tiny(V x) { return abs(x) < T(0.25) / L::kMantissaUnit; }

  // k, in the lowest bits of shifted, and e^r - 1.
  struct Reduced {
    V shifted, minus_one;
  };

  static FASTRNN_INLINE Reduced reduce(V x) {
    constexpr T kRound = E::kRound - E::kBias;
    const V shifted = x * E::kLog2E + kRound;
    const V k = shifted - kRound;
    const V r = (x - k * E::kLn2High) - k * E::kLn2Low;
    return {shifted, r * r * polynomial(E::kSeries, r) + r};
  }

  // log(1 + f) - f.
  static FASTRNN_INLINE V log1p_tail(V f) {
    const V square = f * f;
    if constexpr (sizeof(T) == sizeof(float)) return square * (f * polynomial(L::kSeries, f) - T(0.5));
    const V s = f / (2 + f), s2 = s * s, half = T(0.5) * square;
    return s * (half + s2 * polynomial(L::kSeries, s2)) - half;
  }

  template <int terms>
  static FASTRNN_INLINE V polynomial(const T (&coefficients)[terms], V x) {
    V y = S::broadcast(coefficients[terms - 1]);
#pragma GCC unroll 16
    for (int n = terms - 2; n >= 0; --n) y = y * x + coefficients[n];
    return y;
  }
};

}  // namespace fastrnn::cpu
