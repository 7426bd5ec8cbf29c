// SIMD vectors as GCC and Clang vector extensions: arithmetic, comparison and ?: come from the language.
#pragma once

#include <cstdint>

#include "isa.h"

namespace fastrnn::cpu {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using type = int32_t;
};
template <>
struct Bits<double> {
  using type = int64_t;
};

template <class Isa, class T>
struct Simd {
  static constexpr int kLanes = Isa::kBytes / sizeof(T);
  typedef T V __attribute__((vector_size(Isa::kBytes)));
  typedef typename Bits<T>::type I __attribute__((vector_size(Isa::kBytes)));
  // In memory: no alignment beyond the element's, and it may alias T.
  typedef T Unaligned __attribute__((vector_size(Isa::kBytes), aligned(alignof(T)), may_alias));

  static FASTRNN_INLINE V load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static FASTRNN_INLINE void store(T* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }
  static FASTRNN_INLINE V broadcast(T x) {
    V v;
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = x;
    return v;
  }

  // The first n lanes; the others are zero on loading and left alone on storing.
  static FASTRNN_INLINE V load(const T* p, int n) { return n == kLanes ? load(p) : V(Isa::load(p, n)); }
  static FASTRNN_INLINE void store(T* p, V v, int n) {
    if (n == kLanes) {
      store(p, v);
    } else {
      Isa::store(p, v, n);
    }
  }
};

}  // namespace fastrnn::cpu
