// Busy-waiting for another thread that should arrive in a moment.
#pragma once

#include <sched.h>

#include "../tuning.h"

namespace fastrnn::cpu {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// After some turns the other thread has probably been descheduled, and yielding lets it have this core.
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
