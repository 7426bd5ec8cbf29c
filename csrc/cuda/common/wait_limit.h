// What becomes of a kernel whose blocks wait for one another in vain: it must not hang. A block that has waited longer
// than a limit fills its results with NaN, stores to host memory which call that was, and ends. The next call from the
// host raises an error, and from then on this process takes the streamed path.
#pragma once

#include <cstdint>

#include "../../params.h"
#include "../../pass_words.h"

namespace fastrnn::cuda {

struct WaitLimit {
  uint64_t nanoseconds;
  uint64_t nanoseconds_at_start;  // until all blocks of a persistent kernel have begun
  uint64_t* report;               // in host memory: where a block that gives up stores
  uint64_t call;                  // this
};

// Of a launch. FASTRNN_CUDA_WAIT_SECONDS takes the place of kWaitSeconds and kStartSeconds.
WaitLimit wait_limit(Path path, bool backward, const Dims& dims, int64_t steps);

// Whether a block of any call has given up.
bool gave_up_waiting();
// The same of that call alone, which is then forgotten.
bool forget_if_gave_up(Path path, bool backward, const Dims& dims, int64_t steps);
// Raises the error if one has since the last error.
void raise_if_gave_up();

}  // namespace fastrnn::cuda
