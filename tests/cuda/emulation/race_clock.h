// What a thread knows to have happened: vector clocks, small although a launch has thousands of threads.
//
// A thread counts the barriers of its block, the meetings of its warp since then, and its releases since then: that is
// its time. All threads of a block, and all lanes of a warp, pass these in step, so that one bound serves for all of
// them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "runtime.h"

namespace fastrnn::emulation::race {

constexpr int kReleaseBits = 12, kWarpBits = 13, kBlockBits = 18;
constexpr int kTimeBits = kReleaseBits + kWarpBits + kBlockBits;
using Time = uint64_t;
constexpr Time kRelease = 1, kWarpMeeting = kRelease << kReleaseBits, kBarrier = kWarpMeeting << kWarpBits;
constexpr Time kUnderWay = (Time{1} << kTimeBits) - 1;  // of what has begun and not ended: nobody knows of that
constexpr Time kStart = kBarrier;

// The time of the next event of that kind; 0 if there have been too many.
constexpr Time next(Time time, Time event) {
  const Time count_bits = event == kRelease ? kReleaseBits : event == kWarpMeeting ? kWarpBits : kBlockBits;
  const Time advanced = (time / event + 1) * event;
  return advanced / event % (Time{1} << count_bits) == 0 ? 0 : advanced;
}

// Who did it, and when.
struct Epoch {
  uint64_t bits = 0;

  static constexpr size_t kMaxThreads = size_t{1} << (63 - kTimeBits);

  Epoch() = default;
  Epoch(size_t thread, Time time, bool atomic)
      : bits(thread << (kTimeBits + 1) | uint64_t{atomic} << kTimeBits | time) {}
  explicit operator bool() const { return bits != 0; }
  bool operator==(const Epoch&) const = default;
  size_t thread() const { return bits >> (kTimeBits + 1); }
  bool atomic() const { return bits >> kTimeBits & 1; }
  Time time() const { return bits & kUnderWay; }
  bool under_way() const { return time() == kUnderWay; }
};

// For some threads, warps or blocks: all that they did before a time is known.
class Bounds {
 public:
  Time get(size_t key) const {
    const auto found = std::lower_bound(bounds_.begin(), bounds_.end(), key, less);
    return found != bounds_.end() && found->first == key ? found->second : 0;
  }

  void raise(size_t key, Time bound) {
    const auto found = std::lower_bound(bounds_.begin(), bounds_.end(), key, less);
    if (found == bounds_.end() || found->first != key) {
      bounds_.insert(found, {key, bound});
    } else {
      found->second = std::max(found->second, bound);
    }
  }

  void join(const Bounds& other) {
    if (other.bounds_.empty()) return;
    std::vector<std::pair<size_t, Time>> joined;
    joined.reserve(bounds_.size() + other.bounds_.size());
    auto a = bounds_.begin();
    for (const auto& b : other.bounds_) {
      while (a != bounds_.end() && a->first < b.first) joined.push_back(*a++);
      const bool both = a != bounds_.end() && a->first == b.first;
      joined.push_back({b.first, both ? std::max(a++->second, b.second) : b.second});
    }
    joined.insert(joined.end(), a, bounds_.end());
    bounds_ = std::move(joined);
  }

  // Forgets what `coarser`, whose keys stand for `width` of these, says already.
  void drop_what_is_in(const Bounds& coarser, size_t width) {
    std::erase_if(bounds_, [&](const auto& bound) { return bound.second <= coarser.get(bound.first / width); });
  }

 private:
  static bool less(const std::pair<size_t, Time>& bound, size_t key) { return bound.first < key; }

  std::vector<std::pair<size_t, Time>> bounds_;
};

struct Clock {
  Bounds blocks, warps, threads;

  bool knows(Epoch epoch, size_t threads_of_block) const {
    const size_t thread = epoch.thread();
    const Time time = epoch.time();
    return time < blocks.get(thread / threads_of_block) || time < warps.get(thread / kLanes) ||
           time < threads.get(thread);
  }

  void join(const Clock& other, size_t threads_of_block) {
    blocks.join(other.blocks);
    warps.join(other.warps);
    threads.join(other.threads);
    tidy(threads_of_block);
  }

  void tidy(size_t threads_of_block) {
    warps.drop_what_is_in(blocks, threads_of_block / kLanes);
    threads.drop_what_is_in(blocks, threads_of_block);
    threads.drop_what_is_in(warps, kLanes);
  }
};

}  // namespace fastrnn::emulation::race
