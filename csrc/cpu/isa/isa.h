// One instruction set: its vector width, its registers, and the masked loads and stores that compiler vector extensions
// lack. Each kernels_<isa>.cpp is compiled for one of them; every template below takes it as its first parameter, so
// that no two translation units share an instantiation.
#pragma once

#include <cstdint>

#include "../../cells/portable.h"
#include "bf16.h"
#include "int8.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#else
#include <emmintrin.h>
#endif

namespace fastrnn::cpu {

#if defined(__AVX512F__)

struct Avx512 {
  static constexpr const char* kName = "avx512";
  static constexpr int kBytes = 64;
  static constexpr int kAccumulators = 24;  // of 32 registers: the others hold weights and the broadcast

  static FASTRNN_INLINE __mmask16 mask16(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static FASTRNN_INLINE __mmask8 mask8(int n) { return static_cast<__mmask8>((1u << n) - 1); }
  static FASTRNN_INLINE __m512 load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask16(n), p); }
  static FASTRNN_INLINE __m512d load(const double* p, int n) { return _mm512_maskz_loadu_pd(mask8(n), p); }
  // The bits, as 32-bit values. An intrinsic, since GCC 12 compiles the generic conversion to seven instructions.
  static FASTRNN_INLINE __m512i load_bits(const Bf16* p) {
    return _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FASTRNN_INLINE __m512i load_bits(const Bf16* p, int n) {
    return _mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(mask16(n), p));
  }
  static FASTRNN_INLINE void store(float* p, __m512 v, int n) { _mm512_mask_storeu_ps(p, mask16(n), v); }
  static FASTRNN_INLINE void store(double* p, __m512d v, int n) { _mm512_mask_storeu_pd(p, mask8(n), v); }
  // x, clamped to the bound. NaN stays NaN: these instructions return the second operand if either is NaN.
  static FASTRNN_INLINE __m512 at_least(__m512 x, __m512 bound) { return _mm512_maskz_max_ps(0xffff, bound, x); }
  static FASTRNN_INLINE __m512d at_least(__m512d x, __m512d bound) { return _mm512_maskz_max_pd(0xff, bound, x); }
  static FASTRNN_INLINE __m512 at_most(__m512 x, __m512 bound) { return _mm512_maskz_min_ps(0xffff, bound, x); }
  static FASTRNN_INLINE __m512d at_most(__m512d x, __m512d bound) { return _mm512_maskz_min_pd(0xff, bound, x); }
  // 1 / x to 14 bits. It pays off only here: one division of 16 floats takes as long as 16 multiplications.
  static FASTRNN_INLINE __m512 estimate_reciprocal(__m512 x) { return _mm512_maskz_rcp14_ps(0xffff, x); }
  // a * b + c, always rounded once: whether the compiler contracts a multiplication and an addition depends on the
  // surrounding code.
  static FASTRNN_INLINE __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  static FASTRNN_INLINE __m512d multiply_add(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
};
using Isa = Avx512;

#if defined(__AVX512VNNI__)
// For weights of 8 bits alone: without these instructions AVX2's kernels are as fast.
struct Avx512Vnni : Avx512 {
  // Sums of 32 bits, to each of which the products of two weights and two factors of 16 bits are added.
  using Sums = __m512i;
  static FASTRNN_INLINE __m512i widen(const Int8* p) {
    return _mm512_maskz_cvtepi8_epi16(0xffffffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static FASTRNN_INLINE __m512i add_products(__m512i sums, __m512i weights, __m512i factors) {
    return _mm512_dpwssd_epi32(sums, weights, factors);
  }
};
#endif

#elif defined(__AVX2__)

struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr int kBytes = 32;
  static constexpr int kAccumulators = 12;  // of 16 registers

  static FASTRNN_INLINE __m256i mask32(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static FASTRNN_INLINE __m256i mask64(int n) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static FASTRNN_INLINE __m256 load(const float* p, int n) { return _mm256_maskload_ps(p, mask32(n)); }
  static FASTRNN_INLINE __m256d load(const double* p, int n) { return _mm256_maskload_pd(p, mask64(n)); }
  // The bits, as 32-bit values.
  static FASTRNN_INLINE __m256i load_bits(const Bf16* p) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FASTRNN_INLINE __m256i load_bits(const Bf16* p, int n) {
    Bf16 valid[8] = {};  // AVX2 has no masked load for 16-bit values
    for (int lane = 0; lane < n; ++lane) valid[lane] = p[lane];
    return load_bits(valid);
  }
  // See Avx512Vnni.
  using Sums = __m256i;
  static FASTRNN_INLINE __m256i widen(const Int8* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static FASTRNN_INLINE __m256i add_products(__m256i sums, __m256i weights, __m256i factors) {
    return _mm256_add_epi32(sums, _mm256_madd_epi16(weights, factors));
  }
  static FASTRNN_INLINE void store(float* p, __m256 v, int n) { _mm256_maskstore_ps(p, mask32(n), v); }
  static FASTRNN_INLINE void store(double* p, __m256d v, int n) { _mm256_maskstore_pd(p, mask64(n), v); }
  // x, clamped to the bound. NaN stays NaN: these instructions return the second operand if either is NaN.
  static FASTRNN_INLINE __m256 at_least(__m256 x, __m256 bound) { return _mm256_max_ps(bound, x); }
  static FASTRNN_INLINE __m256d at_least(__m256d x, __m256d bound) { return _mm256_max_pd(bound, x); }
  static FASTRNN_INLINE __m256 at_most(__m256 x, __m256 bound) { return _mm256_min_ps(bound, x); }
  static FASTRNN_INLINE __m256d at_most(__m256d x, __m256d bound) { return _mm256_min_pd(bound, x); }
  // a * b + c, always rounded once: whether the compiler contracts a multiplication and an addition depends on the
  // surrounding code.
  static FASTRNN_INLINE __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
  static FASTRNN_INLINE __m256d multiply_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
};
using Isa = Avx2;

#else

// 128-bit vectors that every x86-64 and every 64-bit Arm processor has.
struct Baseline {
#if defined(__aarch64__)
  static constexpr const char* kName = "neon";
  static constexpr int kAccumulators = 21;  // of 32 registers: GCC loads the broadcasts of all rows at once
#else
  static constexpr const char* kName = "sse2";
  static constexpr int kAccumulators = 12;
#endif
  static constexpr int kBytes = 16;

  template <class T>
  static FASTRNN_INLINE auto load(const T* p, int n) {
    typedef T V __attribute__((vector_size(kBytes)));
    V v{};
#pragma GCC unroll 4
    for (int lane = 0; lane < kBytes / int{sizeof(T)}; ++lane) {
      if (lane < n) v[lane] = p[lane];
    }
    return v;
  }
  // The bits, as 32-bit values.
  static FASTRNN_INLINE auto load_bits(const Bf16* p) {
    typedef uint16_t Narrow __attribute__((vector_size(kBytes / 2), aligned(alignof(Bf16)), may_alias));
    typedef uint32_t Wide __attribute__((vector_size(kBytes)));
    return __builtin_convertvector(*reinterpret_cast<const Narrow*>(p), Wide);
  }
  static FASTRNN_INLINE auto load_bits(const Bf16* p, int n) {
    typedef uint32_t Wide __attribute__((vector_size(kBytes)));
    Wide v{};
#pragma GCC unroll 4
    for (int lane = 0; lane < kBytes / 4; ++lane) {
      if (lane < n) v[lane] = p[lane].bits;
    }
    return v;
  }
  // See Avx512Vnni.
#if defined(__aarch64__)
  using Sums = int32x4_t;
  static FASTRNN_INLINE int16x8_t widen(const Int8* p) { return vmovl_s8(vld1_s8(reinterpret_cast<const int8_t*>(p))); }
  static FASTRNN_INLINE int32x4_t add_products(int32x4_t sums, int16x8_t weights, int16x8_t factors) {
    const int32x4_t low = vmull_s16(vget_low_s16(weights), vget_low_s16(factors));
    return vaddq_s32(sums, vpaddq_s32(low, vmull_high_s16(weights, factors)));
  }
#else
  using Sums = __m128i;
  static FASTRNN_INLINE __m128i widen(const Int8* p) {
    const __m128i narrow = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_srai_epi16(_mm_unpacklo_epi8(narrow, narrow), 8);
  }
  static FASTRNN_INLINE __m128i add_products(__m128i sums, __m128i weights, __m128i factors) {
    return _mm_add_epi32(sums, _mm_madd_epi16(weights, factors));
  }
#endif
  template <class T, class V>
  static FASTRNN_INLINE void store(T* p, V v, int n) {
#pragma GCC unroll 4
    for (int lane = 0; lane < kBytes / int{sizeof(T)}; ++lane) {
      if (lane < n) p[lane] = v[lane];
    }
  }
  // x, clamped to the bound. NaN stays NaN.
  template <class V>
  static FASTRNN_INLINE V at_least(V x, V bound) {
    return x < bound ? bound : x;
  }
  template <class V>
  static FASTRNN_INLINE V at_most(V x, V bound) {
    return x > bound ? bound : x;
  }
  // a * b + c; on Arm always rounded once, since whether the compiler contracts a multiplication and an addition
  // depends on the surrounding code. SSE2 has no fused multiply-add.
#if defined(__aarch64__)
  static FASTRNN_INLINE float32x4_t multiply_add(float32x4_t a, float32x4_t b, float32x4_t c) {
    return vfmaq_f32(c, a, b);
  }
  static FASTRNN_INLINE float64x2_t multiply_add(float64x2_t a, float64x2_t b, float64x2_t c) {
    return vfmaq_f64(c, a, b);
  }
#else
  template <class V>
  static FASTRNN_INLINE V multiply_add(V a, V b, V c) {
    return a * b + c;
  }
#endif
};
using Isa = Baseline;

#endif

}  // namespace fastrnn::cpu
