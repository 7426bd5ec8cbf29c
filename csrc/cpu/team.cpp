#include "team.h"

#include <omp.h>
#include <sched.h>

#include <atomic>

namespace fastrnn::cpu {

struct TeamState {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};
};

namespace {

// About 30 us of spinning: far above a balanced step's wait, far below a scheduler's time slice. After that the
// partner has probably lost its core, and yielding lets it have this one.
constexpr int kSpins = 1000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Member::barrier() {
  if (count == 1) return;
  const int phase = state->phase.load(std::memory_order_relaxed);
  if (state->arrived.fetch_add(1, std::memory_order_acq_rel) == count - 1) {
    state->arrived.store(0, std::memory_order_relaxed);
    state->phase.store(phase + 1, std::memory_order_release);
    return;
  }
  for (int spin = 0; state->phase.load(std::memory_order_acquire) == phase; ++spin) {
    if (spin < kSpins) {
      relax();
    } else {
      sched_yield();
    }
  }
}

void run_team(int threads, void (*body)(void* context, Member& member), void* context) {
  TeamState state;
  if (threads <= 1) {
    Member member{0, 1, &state};
    body(context, member);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    Member member{omp_get_thread_num(), omp_get_num_threads(), &state};
    body(context, member);
  }
}

int max_threads() { return omp_in_parallel() ? 1 : omp_get_max_threads(); }

}  // namespace fastrnn::cpu
