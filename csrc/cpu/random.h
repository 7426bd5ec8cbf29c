// Random masks: each element is a given value with a given probability, else 0.
//
// xoshiro128+ (D. Blackman and S. Vigna, "Scrambled linear pseudorandom number generators", 2021), one generator in
// each lane of a vector, seeded anew with splitmix64 for each block. torch's own bernoulli_ takes 10 ns an element,
// this 0.3 (benchmarks/recurrences.py, zoneout).
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

// Templated on Isa, like everything that kernel files compile.
template <class Isa>
class MaskGenerator {
 public:
  explicit MaskGenerator(uint64_t seed) : seed_(seed) {}

  template <class T>
  void fill(T* out, int64_t count, double probability, T value) {
    // A threshold for 16 random bits; with 1.0 the comparison always holds.
    const auto below = static_cast<int32_t>(probability * (1 << 16) + 0.5);
    for (int64_t block = 0; block < count; block += kBlock) {
      start();
      const int64_t end = block + kBlock < count ? block + kBlock : count;
      for (int64_t i = block; i < end; i += kElements) write(out + i, end - i, below, value);
    }
  }

 private:
  static constexpr int kLanes = 16;
  static constexpr int64_t kElements = 2 * kLanes;  // per step of all lanes
  static constexpr int64_t kBlock = 128 * kElements;
  typedef uint32_t Lanes __attribute__((vector_size(kLanes * sizeof(uint32_t))));

  uint64_t splitmix() {
    uint64_t z = (seed_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  void start() {
    for (Lanes& word : state_) {
      for (int lane = 0; lane < kLanes; lane += 2) {
        const uint64_t bits = splitmix();
        word[lane] = static_cast<uint32_t>(bits);
        word[lane + 1] = static_cast<uint32_t>(bits >> 32);
      }
    }
  }

  Lanes next() {
    const Lanes result = state_[0] + state_[3], shifted = state_[1] << 9;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = (state_[3] << 11) | (state_[3] >> 21);
    return result;
  }

  template <class T>
  void write(T* out, int64_t room, int32_t below, T value) {
    typedef int32_t Signed __attribute__((vector_size(sizeof(Lanes))));
    typedef T Values __attribute__((vector_size(kLanes * sizeof(T)), aligned(alignof(T)), may_alias));
    const Lanes bits = next();
    const Signed high = reinterpret_cast<Signed>(bits >> 16), low = reinterpret_cast<Signed>(bits & 0xffff);
    // A comparison gives -1 where it holds.
    const Values first = __builtin_convertvector(-(high < below), Values) * value;
    const Values second = __builtin_convertvector(-(low < below), Values) * value;
    if (room >= kElements) {
      *reinterpret_cast<Values*>(out) = first;
      *reinterpret_cast<Values*>(out + kLanes) = second;
      return;
    }
    for (int64_t i = 0; i < room; ++i) out[i] = i < kLanes ? first[i] : second[i - kLanes];
  }

  uint64_t seed_;
  Lanes state_[4]{};
};

// out (count): the value with the given probability, else 0.
template <class Isa, class T>
void fill_mask(uint64_t seed, T* out, int64_t count, double probability, T value) {
  MaskGenerator<Isa>(seed).fill(out, count, probability, value);
}

}  // namespace fastrnn::cpu
