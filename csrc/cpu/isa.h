// One instruction set: its vector width, its registers, and the masked loads and stores that no compiler vector
// extension has. Each kernels_<isa>.cpp is compiled for one of them; every template below takes it as its first
// parameter, so that no two translation units share an instantiation.
#pragma once

#include <cstdint>

#include "../cells/portable.h"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace fastrnn::cpu {

#if defined(__AVX512F__)

struct Avx512 {
  static constexpr const char* kName = "avx512";
  static constexpr int kBytes = 64;
  static constexpr int kAccumulators = 24;  // of 32 registers: the rest hold weights and the broadcast

  static FASTRNN_INLINE __mmask16 mask16(int n) { return static_cast<__mmask16>((1u << n) - 1); }
  static FASTRNN_INLINE __mmask8 mask8(int n) { return static_cast<__mmask8>((1u << n) - 1); }
  static FASTRNN_INLINE __m512 load(const float* p, int n) { return _mm512_maskz_loadu_ps(mask16(n), p); }
  static FASTRNN_INLINE __m512d load(const double* p, int n) { return _mm512_maskz_loadu_pd(mask8(n), p); }
  static FASTRNN_INLINE void store(float* p, __m512 v, int n) { _mm512_mask_storeu_ps(p, mask16(n), v); }
  static FASTRNN_INLINE void store(double* p, __m512d v, int n) { _mm512_mask_storeu_pd(p, mask8(n), v); }
};
using Isa = Avx512;

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
  static FASTRNN_INLINE void store(float* p, __m256 v, int n) { _mm256_maskstore_ps(p, mask32(n), v); }
  static FASTRNN_INLINE void store(double* p, __m256d v, int n) { _mm256_maskstore_pd(p, mask64(n), v); }
};
using Isa = Avx2;

#else

// 128-bit vectors that every x86-64 and every 64-bit Arm processor has.
struct Baseline {
#if defined(__aarch64__)
  static constexpr const char* kName = "neon";
  static constexpr int kAccumulators = 24;
#else
  static constexpr const char* kName = "sse2";
  static constexpr int kAccumulators = 12;
#endif
  static constexpr int kBytes = 16;

  template <class T>
  static FASTRNN_INLINE auto load(const T* p, int n) {
    typedef T V __attribute__((vector_size(kBytes)));
    V v{};
    for (int lane = 0; lane < n; ++lane) v[lane] = p[lane];
    return v;
  }
  template <class T, class V>
  static FASTRNN_INLINE void store(T* p, V v, int n) {
    for (int lane = 0; lane < n; ++lane) p[lane] = v[lane];
  }
};
using Isa = Baseline;

#endif

}  // namespace fastrnn::cpu
