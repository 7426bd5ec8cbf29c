// What roofline.py asks of a machine beside the rate of torch's products: how fast its cores read, and how fast they
// meet. Plain threads, so that no library's pool takes part.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <new>
#include <thread>
#include <vector>

namespace {

using Vector = float __attribute__((vector_size(64)));
using Clock = std::chrono::steady_clock;

constexpr int64_t kVectors = 8;        // sums in flight, so that loads are what limits
constexpr int64_t kBlockBytes = 4096;  // a page: what prefetching stays within, so that the way back is no slower
constexpr int64_t kBlockVectors = kBlockBytes / sizeof(Vector);
constexpr int kSpins = 1000;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void meet() {
    const int phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == count_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spin = 0; phase_.load(std::memory_order_acquire) == phase; ++spin) {
      if (spin > kSpins) sched_yield();
    }
  }

 private:
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> phase_{0};
  int count_;
};

void add_block(const Vector* block, Vector* sums) {
  for (int64_t first = 0; first < kBlockVectors; first += kVectors) {
    for (int64_t v = 0; v < kVectors; ++v) sums[v] += block[first + v];
  }
}

// There and back again: what a cache still holds at the end of a pass is read first in the next.
void read_there_and_back(const Vector* data, int64_t blocks, int64_t passes, Vector* result) {
  Vector sums[kVectors] = {};
  for (int64_t pass = 0; pass < passes; pass += 2) {
    for (int64_t b = 0; b < blocks; ++b) add_block(data + b * kBlockVectors, sums);
    for (int64_t b = blocks; b-- > 0;) add_block(data + b * kBlockVectors, sums);
  }
  for (const Vector& sum : sums) *result += sum;
}

template <typename Body>
void run_threads(int count, Body body) {
  std::vector<std::thread> others;
  for (int index = 1; index < count; ++index) others.emplace_back(body, index);
  body(0);
  for (std::thread& other : others) other.join();
}

}  // namespace

// Seconds in which each of `threads` cores reads `bytes` of its own, all at once: the slowest one's, a pass of
// `passes`.
extern "C" double probe_read(int64_t bytes, int64_t passes, int threads) {
  const int64_t blocks = std::max<int64_t>(bytes / kBlockBytes, 1);
  std::vector<double> seconds(threads);
  Barrier start(threads);
  run_threads(threads, [&](int index) {
    const auto data = std::make_unique<Vector[]>(blocks * kBlockVectors);
    Vector result = {};
    read_there_and_back(data.get(), blocks, 2, &result);
    start.meet();
    const Clock::time_point begin = Clock::now();
    read_there_and_back(data.get(), blocks, passes, &result);
    seconds[index] = seconds_since(begin);
    asm volatile("" ::"m"(result));
  });
  const double read_passes = static_cast<double>((passes + 1) / 2 * 2);
  const double read_share = static_cast<double>(blocks * kBlockBytes) / static_cast<double>(bytes);
  return *std::max_element(seconds.begin(), seconds.end()) / read_passes / read_share;
}

// Seconds for `threads` cores to meet, in a row of `rounds` meetings.
extern "C" double probe_meet(int64_t rounds, int threads) {
  double seconds = 0;
  Barrier barrier(threads);
  run_threads(threads, [&](int index) {
    barrier.meet();
    const Clock::time_point begin = Clock::now();
    for (int64_t round = 0; round < rounds; ++round) barrier.meet();
    if (index == 0) seconds = seconds_since(begin);
  });
  return seconds / static_cast<double>(rounds);
}
