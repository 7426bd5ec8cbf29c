#include "wait_limit.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>

#include "../tuning.h"
#include "beside_captures.h"

namespace fastrnn::cuda {

namespace {

std::atomic<uint64_t*> report_of_process{nullptr};
std::atomic<bool> ever_raised{false};

// How a call is packed into a word: a bit that is always set, two for the kernel, and sizes up to what fits.
constexpr int kSizeBits = 20;
constexpr uint64_t kLargestSize = (uint64_t{1} << kSizeBits) - 1;
constexpr uint64_t kAny = uint64_t{1} << 63, kCluster = uint64_t{1} << 62, kBackward = uint64_t{1} << 61;

uint64_t pack(Path path, bool backward, const Dims& dims, int64_t steps) {
  uint64_t word = 0;
  for (const int64_t size : {dims.hidden_size, dims.batch, steps}) {
    word = word << kSizeBits | std::min(static_cast<uint64_t>(size), kLargestSize);
  }
  return word | kAny | (path == Path::kCluster ? kCluster : 0) | (backward ? kBackward : 0);
}

std::string words_of_call(uint64_t word) {
  const auto size = [&](int place) {
    const uint64_t value = word >> (place * kSizeBits) & kLargestSize;
    return (value == kLargestSize ? "at least " : "") + std::to_string(value);
  };
  return std::string("the ") + name_of(word & kCluster ? Path::kCluster : Path::kPersistent) + " kernel, " +
         (word & kBackward ? "backward" : "forward") + " (hidden_size " + size(2) + ", batch " + size(1) + ", " +
         size(0) + " steps)";
}

uint64_t* allocate_report() {
  const BesideCaptures beside;
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, sizeof(uint64_t), cudaHostAllocPortable | cudaHostAllocMapped));
  auto* const word = static_cast<uint64_t*>(memory);
  *word = 0;
  report_of_process = word;
  return word;
}

// Kept until the process ends: graphs that were captured go on storing there.
uint64_t* report() {
  static uint64_t* const word = allocate_report();
  return word;
}

std::optional<double> seconds_asked_for() {
  const char* const wish = std::getenv("FASTRNN_CUDA_WAIT_SECONDS");
  if (!wish || !*wish) return {};
  char* end = nullptr;
  const double seconds = std::strtod(wish, &end);
  if (*end == '\0' && seconds > 0 && seconds < 1e9) return seconds;
  throw std::runtime_error("fastrnn: FASTRNN_CUDA_WAIT_SECONDS=" + std::string(wish) +
                           ": use a positive number of seconds, or leave it unset");
}

// Leaves room for the next report.
uint64_t take_report() {
  uint64_t* const word = report_of_process;
  return word ? __atomic_exchange_n(word, 0, __ATOMIC_RELAXED) : 0;
}

}  // namespace

WaitLimit wait_limit(Path path, bool backward, const Dims& dims, int64_t steps) {
  const std::optional<double> seconds = seconds_asked_for();
  const auto nanoseconds = [&](int64_t otherwise) {
    return static_cast<uint64_t>(seconds.value_or(static_cast<double>(otherwise)) * 1e9);
  };
  return {nanoseconds(kWaitSeconds), nanoseconds(kStartSeconds), report(), pack(path, backward, dims, steps)};
}

bool gave_up_waiting() {
  const volatile uint64_t* const word = report_of_process;
  return ever_raised || (word && *word != 0);
}

bool forget_if_gave_up(Path path, bool backward, const Dims& dims, int64_t steps) {
  uint64_t* const word = report_of_process;
  uint64_t call = pack(path, backward, dims, steps);
  return word && __atomic_compare_exchange_n(word, &call, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void raise_if_gave_up() {
  if (!gave_up_waiting()) return;
  ever_raised = true;
  const uint64_t word = take_report();
  if (word == 0) return;
  throw std::runtime_error("fastrnn: a block of " + words_of_call(word) +
                           " waited in vain for another, and gave up: results of that call are NaN, and so is what "
                           "was computed from them. From now on this process takes the streamed path. If the GPU was "
                           "only slow (a debugger, a sanitizer, many processes), raise FASTRNN_CUDA_WAIT_SECONDS; "
                           "otherwise please report this, with the GPU and the driver.");
}

}  // namespace fastrnn::cuda
