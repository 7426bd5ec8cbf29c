// What the 32 lanes of a warp compute together.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>

#include "runtime.h"

namespace fastrnn::emulation {

namespace {

constexpr int kRows = 16, kColumns = 8, kQuad = 4;

// The two values of a register, lower half first.
template <class Half>
void unpack(uint32_t bits, float (&values)[2]) {
  if constexpr (std::is_same_v<Half, __half>) {
    values[0] = __half2float(__half(__half_raw{static_cast<unsigned short>(bits)}));
    values[1] = __half2float(__half(__half_raw{static_cast<unsigned short>(bits >> 16)}));
  } else {
    values[0] = std::bit_cast<float>(bits << 16);
    values[1] = std::bit_cast<float>(bits & 0xffff0000u);
  }
}

// Sums in float, lowest k first; what tensor cores keep of their sums is theirs to say.
template <int kDepth>
void multiply_add(const float (&a)[kRows][kDepth], const float (&b)[kDepth][kColumns],
                  void* const (&operands)[kLanes]) {
  float sums[kRows][kColumns] = {};
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      for (int column = 0; column < kColumns; ++column) sums[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    float* const c = static_cast<const MmaOperands*>(operands[lane])->c;
    for (int i = 0; i < 4; ++i) c[i] += sums[lane / kQuad + i / 2 * 8][lane % kQuad * 2 + i % 2];
  }
}

// PTX, "Matrix Fragments for mma.m16n8k16 with floating point type"
template <class Half>
void multiply_add_halves(void* const (&operands)[kLanes]) {
  float a[kRows][16], b[16][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& own = *static_cast<const MmaOperands*>(operands[lane]);
    const int r = lane / kQuad, k = lane % kQuad * 2;
    float pair[2];
    for (int i = 0; i < 4; ++i) {
      unpack<Half>(own.a[i], pair);
      for (int half = 0; half < 2; ++half) a[r + i % 2 * 8][k + i / 2 * 8 + half] = pair[half];
    }
    for (int i = 0; i < 2; ++i) {
      unpack<Half>(own.b[i], pair);
      for (int half = 0; half < 2; ++half) b[k + i * 8 + half][r] = pair[half];
    }
  }
  multiply_add<16>(a, b, operands);
}

}  // namespace

void multiply_add_half(void* const (&operands)[kLanes]) { multiply_add_halves<__half>(operands); }
void multiply_add_bfloat16(void* const (&operands)[kLanes]) { multiply_add_halves<__nv_bfloat16>(operands); }

// PTX, "Matrix Fragments for mma.m16n8k8" with .tf32. Tensor cores take no notice of the low 13 bits.
void multiply_add_tf32(void* const (&operands)[kLanes]) {
  constexpr uint32_t kSeen = ~0x1fffu;
  float a[kRows][8], b[8][kColumns];
  for (int lane = 0; lane < kLanes; ++lane) {
    const auto& own = *static_cast<const MmaOperands*>(operands[lane]);
    const int r = lane / kQuad, k = lane % kQuad;
    for (int i = 0; i < 4; ++i) a[r + i % 2 * 8][k + i / 2 * 4] = std::bit_cast<float>(own.a[i] & kSeen);
    for (int i = 0; i < 2; ++i) b[k + i * 4][r] = std::bit_cast<float>(own.b[i] & kSeen);
  }
  multiply_add<8>(a, b, operands);
}

void shuffle(void* const (&operands)[kLanes]) {
  for (void* const own : operands) {
    auto& to = *static_cast<ShuffleOperands*>(own);
    to.result = static_cast<const ShuffleOperands*>(operands[to.source_lane])->value;
  }
}

}  // namespace fastrnn::emulation
