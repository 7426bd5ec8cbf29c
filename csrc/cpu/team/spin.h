// Busy-waiting for another thread that should arrive in a moment.
#pragma once

#include <sched.h>

namespace fastrnn::cpu {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// About 30 us of spinning: far above a balanced step's wait, far below a scheduler's time slice. After that the other
// thread has probably been descheduled, and yielding lets it have this core.
constexpr int kSpins = 1000;

template <class Ready>
void spin_until(const Ready& ready) {
  for (int spin = 0; !ready(); ++spin) {
    if (spin < kSpins) {
      relax();
    } else {
      sched_yield();
    }
  }
}

}  // namespace fastrnn::cpu
