// SIMD vectors by the vector extensions of GCC and Clang: arithmetic, comparison and ?: come from the language.
#pragma once

#include <cstdint>
#include <utility>

#include "isa.h"

namespace fastrnn::cpu {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using type = uint32_t;
};
template <>
struct Bits<double> {
  using type = uint64_t;
};

// How many values of one column, one below the other in the matrix, lie side by side where weights are packed. Two of
// bfloat16 fill the lane of a float, and either becomes one by a single instruction, where widening half a vector takes
// two: time loops at B = 1, H = 256 to 1024 were 1.5-1.6 times as fast (AVX-512, 2026-11-29).
template <class W>
inline constexpr int kPackedTogether = 1;
template <>
inline constexpr int kPackedTogether<Bf16> = 2;
template <>
inline constexpr int kPackedTogether<Int8> = 2;  // as instructions multiply them

// Keeps a loaded vector in a register, however often it is used.
template <class V>
FASTRNN_INLINE V in_register(V v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

template <class Isa, class T>
struct Simd {
  static constexpr int kLanes = Isa::kBytes / sizeof(T);
  typedef T V __attribute__((vector_size(Isa::kBytes)));
  typedef typename Bits<T>::type I __attribute__((vector_size(Isa::kBytes)));
  typedef int32_t Integers __attribute__((vector_size(Isa::kBytes)));
  typedef typename Bits<T>::type UnalignedBits __attribute__((vector_size(Isa::kBytes), aligned(2), may_alias));
  // As stored in memory: aligned as an element, and may alias T.
  typedef T Unaligned __attribute__((vector_size(Isa::kBytes), aligned(alignof(T)), may_alias));

  static FASTRNN_INLINE V load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
  static FASTRNN_INLINE void store(T* p, V v) { *reinterpret_cast<Unaligned*>(p) = v; }

  // Widened on load and truncated on store: only values that Bf16 can represent may be stored.
  static FASTRNN_INLINE V load(const Bf16* p) { return upper_half(Isa::load_bits(p)); }
  static FASTRNN_INLINE void store(Bf16* p, V v) {
    typedef uint16_t Half __attribute__((vector_size(kLanes * sizeof(Bf16))));
    typedef uint16_t Unaligned __attribute__((vector_size(kLanes * sizeof(Bf16)), aligned(alignof(Bf16)), may_alias));
    *reinterpret_cast<Unaligned*>(p) = __builtin_convertvector(reinterpret_cast<I>(v) >> 16, Half);
  }

  // Vector v of one of the kPackedTogether rows of a packed panel that begin at `rows`.
  template <class W>
  static FASTRNN_INLINE V load_packed(const W* rows, int v, int) {
    return load(rows + v * kLanes);
  }
  static FASTRNN_INLINE V load_packed(const Bf16* rows, int v, int part) {
    const I pairs = *reinterpret_cast<const UnalignedBits*>(rows + v * 2 * kLanes);
    return reinterpret_cast<V>(part == 0 ? pairs << 16 : pairs & 0xffff0000);
  }
  // Two vectors one below the other, as load_packed finds them.
  static FASTRNN_INLINE void store_pair(Bf16* p, V even, V odd) {
    *reinterpret_cast<UnalignedBits*>(p) = reinterpret_cast<I>(even) >> 16 | (reinterpret_cast<I>(odd) & 0xffff0000);
  }

  static FASTRNN_INLINE V broadcast(T x) {
    V v;
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = x;
    return v;
  }

  // Sums of products of weights and factors, two for each lane; see Isa::add_products.
  static FASTRNN_INLINE auto load_pairs(const Int8* p) { return Isa::widen(p); }
  static FASTRNN_INLINE auto broadcast_pair(const int16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return reinterpret_cast<decltype(load_pairs(nullptr))>(pair - Integers{});
  }
  template <class Pairs>
  static FASTRNN_INLINE Integers add_products(Integers sums, Pairs weights, Pairs factors) {
    return reinterpret_cast<Integers>(Isa::add_products(reinterpret_cast<typename Isa::Sums>(sums), weights, factors));
  }
  static FASTRNN_INLINE V to_float(Integers v) { return __builtin_convertvector(v, V); }

  // rows[i][j] becomes rows[j][i].
  static FASTRNN_INLINE void transpose(V (&rows)[kLanes]) { transpose_blocks<1>(rows); }

  // The sum of each vector's lanes, in one fixed order.
  static FASTRNN_INLINE void sum_lanes(T* out, const V (&v)[4]) {
    const V even = interleave<0>(v[0], v[2]) + interleave<kLanes / 2>(v[0], v[2]);
    const V odd = interleave<0>(v[1], v[3]) + interleave<kLanes / 2>(v[1], v[3]);
    if constexpr (kLanes == 2) {
      store(out, interleave<0>(even, odd));
      store(out + 2, interleave<1>(even, odd));
    } else {
      T sums[kLanes];
      store(sums, interleave<0>(even, odd) + interleave<kLanes / 2>(even, odd));
      for (int lane = 4; lane < kLanes; ++lane) sums[lane % 4] += sums[lane];
      for (int lane = 0; lane < 4; ++lane) out[lane] = sums[lane];
    }
  }

  // The first n lanes; the others are zeroed on load and left untouched on store.
  static FASTRNN_INLINE V load(const T* p, int n) { return n == kLanes ? load(p) : V(Isa::load(p, n)); }
  static FASTRNN_INLINE V load(const Bf16* p, int n) {
    return n == kLanes ? load(p) : upper_half(Isa::load_bits(p, n));
  }
  static FASTRNN_INLINE void store(T* p, V v, int n) {
    if (n == kLanes) {
      store(p, v);
    } else {
      Isa::store(p, v, n);
    }
  }

 private:
  template <class Bits>
  static FASTRNN_INLINE V upper_half(Bits bits) {
    return reinterpret_cast<V>(reinterpret_cast<I>(bits) << 16);
  }

  // The rest of a transposition whose blocks of `size` rows and lanes are already transposed. Most of its shuffles are
  // a single instruction, unlike interleaving whole vectors: packing took 1/1.1 to 1/1.3 of the time (AVX2,
  // 2026-11-26).
  template <int size>
  static FASTRNN_INLINE void transpose_blocks(V (&rows)[kLanes]) {
    if constexpr (size < kLanes) {
#pragma GCC unroll 16
      for (int row = 0; row < kLanes; ++row) {
        if (row % (2 * size) < size) swap_blocks<size>(rows[row], rows[row + size]);
      }
      transpose_blocks<2 * size>(rows);
    }
  }

  // Swaps every other block of a, starting with the second, with the block of b before it.
  template <int size>
  static FASTRNN_INLINE void swap_blocks(V& a, V& b) {
    [&]<int... lane>(std::integer_sequence<int, lane...>) FASTRNN_INLINE_LAMBDA {
      const V first = __builtin_shufflevector(a, b, (lane & size ? kLanes + lane - size : lane)...);
      b = __builtin_shufflevector(a, b, (lane & size ? kLanes + lane : lane + size)...);
      a = first;
    }(std::make_integer_sequence<int, kLanes>{});
  }

  // a[first], b[first], a[first + 1], b[first + 1], ...
  template <int first>
  static FASTRNN_INLINE V interleave(V a, V b) {
    return [&]<int... lane>(std::integer_sequence<int, lane...>) FASTRNN_INLINE_LAMBDA {
      return __builtin_shufflevector(a, b, (first + lane / 2 + lane % 2 * kLanes)...);
    }(std::make_integer_sequence<int, kLanes>{});
  }
};

}  // namespace fastrnn::cpu
