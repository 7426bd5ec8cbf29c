// Waiting for another block, up to a limit (common/wait_limit.h).
#pragma once

#include "../common/gpu.cuh"
#include "../common/wait_limit.h"

namespace fastrnn::cuda {

class BoundedWait {
 public:
  __device__ explicit BoundedWait(const WaitLimit& limit) : limit_(limit) {}

  // Polls until done() or until the limit has passed; returns whether it was done. at_start: the other block may not
  // have begun.
  template <class Done>
  __device__ __forceinline__ bool until(const Done& done, bool at_start = false) const {
    uint64_t since = 0;
    for (uint32_t polls = 1; !done(); ++polls) {
      if (polls % kPollsPerLook != 0) continue;
      const uint64_t now = global_time();
      if (since == 0) since = now;
      if (now - since > (at_start ? limit_.nanoseconds_at_start : limit_.nanoseconds)) {
        store_to_host(limit_.report, limit_.call);
        return false;
      }
    }
    return true;
  }

 private:
  // Looks at the clock: most waits end before the first.
  static constexpr uint32_t kPollsPerLook = 32;

  const WaitLimit& limit_;
};

}  // namespace fastrnn::cuda
