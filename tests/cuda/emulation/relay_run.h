// One launch of the relay, and what it should compute.
#pragma once

#include <cmath>
#include <vector>

#include "memory.h"
#include "relay.h"
#include "runtime.h"

namespace fastrnn::test {

struct RelayShape {
  int64_t steps, blocks;
  int threads;
};

inline float relay_input(int64_t i) { return static_cast<float>(i % 37) / 8 - 2; }

inline std::vector<float> relay_expected(const RelayShape& shape) {
  const int64_t threads = shape.threads, all = shape.blocks * threads;
  std::vector<float> value(static_cast<size_t>((shape.steps + 1) * all));
  for (int64_t i = 0; i < all; ++i) value[i] = relay_input(i);
  for (int64_t step = 0; step < shape.steps; ++step) {
    const float* const before = &value[step * all];
    float* const after = &value[(step + 1) * all];
    for (int64_t first = 0; first < all; first += threads) {
      std::vector<float> held(static_cast<size_t>(threads));
      for (int64_t tid = 0; tid < threads; ++tid) {
        const float* const warp = before + first + (tid + 40) % threads / 32 * 32;
        float mean = 0;
        for (int lane = 0; lane < 32; ++lane) mean += warp[lane] / 32;
        held[tid] = before[(first + threads + (tid + 7) % threads) % all] / 4 + mean / 4;
      }
      for (int64_t tid = 0; tid < threads; ++tid) {
        after[first + tid] = relay_input(step * all + first + (tid + 33) % threads) + held[(tid + 1) % threads];
      }
    }
  }
  return value;
}

// What is wrong with what a kernel computed.
inline const char* const kNothingWrong = "nothing";
inline const char* compare(const emulation::Buffer<float>& got, const std::vector<float>& expected) {
  const char* wrong = kNothingWrong;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(got[i])) return "NaN";
    if (std::fabs(got[i] - expected[i]) > 1e-5f * (1 + std::fabs(expected[i]))) wrong = "wrong values";
  }
  return wrong;
}

// Throws what the emulator finds wrong, else says what is wrong with the values.
template <Wrong kWrong>
const char* run_relay(const RelayShape& shape) {
  const auto all = static_cast<size_t>(shape.blocks * shape.threads), steps = static_cast<size_t>(shape.steps);
  const emulation::Buffer<float> input(steps * all), value((steps + 1) * all);
  const emulation::Buffer<uint32_t> flags(static_cast<size_t>(shape.blocks));
  for (size_t i = 0; i < input.size(); ++i) input[i] = relay_input(static_cast<int64_t>(i));
  for (size_t i = 0; i < all; ++i) value[i] = relay_input(static_cast<int64_t>(i));
  cuda::check(cudaMemsetAsync(flags.data(), 0, flags.size() * sizeof(uint32_t), nullptr));
  const float host = 1;
  const Relay params{shape.steps, input.data(), value.data(), flags.data(), &host};
  const int64_t shared_bytes = relay_shared_floats(shape.threads) * static_cast<int64_t>(sizeof(float));
  cuda::launch(relay<kWrong>, {shape.blocks, 1, shape.threads, shared_bytes, true}, params, nullptr);
  return compare(value, relay_expected(shape));
}

}  // namespace fastrnn::test
