#include "team.h"

#include <omp.h>

#include <atomic>
#include <limits>

#include "../tuning.h"
#include "interrupt.h"
#include "spin.h"

namespace fastrnn::cpu {

bool (*interrupt_requested)() = nullptr;

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

struct TeamState {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};
  // A step number rather than a flag: a worker still at step s must not act on a decision made at s + 1.
  alignas(64) std::atomic<int64_t> last_step{kNever};
  InterruptPoll interrupt;
};

bool InterruptPoll::requested() {
  if (!interrupt_requested) return false;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < std::chrono::milliseconds(kPollMilliseconds)) return false;  // asking Python takes the GIL
  last_ = now;
  return interrupt_requested();
}

Worker Worker::alone() const { return {0, 1, state, polls}; }

void Worker::barrier() {
  if (count == 1) return;
  const int phase = state->phase.load(std::memory_order_relaxed);
  if (state->arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    state->arrived.store(0, std::memory_order_relaxed);
    state->phase.store(phase + 1, std::memory_order_release);
    return;
  }
  spin_until([&] { return state->phase.load(std::memory_order_acquire) != phase; });
}

void Worker::poll(int64_t step) {
  if (!polls || !state->interrupt.requested()) return;
  if (count == 1) return stop();
  state->last_step.store(step, std::memory_order_relaxed);
}

void Worker::stop() { state->last_step.store(0, std::memory_order_relaxed); }

bool Worker::stopped_at(int64_t step) const { return step >= state->last_step.load(std::memory_order_relaxed); }

bool run_team(int threads, void (*body)(void* context, Worker& worker), void* context) {
  TeamState state;
  if (threads <= 1) {
    Worker worker{0, 1, &state, true};
    body(context, worker);
    return state.last_step.load() == kNever;
  }
#pragma omp parallel num_threads(threads)
  {
    const int index = omp_get_thread_num();
    Worker worker{index, omp_get_num_threads(), &state, index == 0};
    body(context, worker);
  }
  return state.last_step.load() == kNever;
}

}  // namespace fastrnn::cpu
