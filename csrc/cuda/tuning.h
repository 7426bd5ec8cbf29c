// Every threshold of the GPU paths that a measurement may change, one a line: docs/tuning.md says where it is from.
// Kernel files include this: integers alone, and no standard header but <cstdint>.
#pragma once

#include <cstdint>

namespace fastrnn::cuda {

// Which layers run concurrently (plan.cpp, ops/cuda_device.h).
constexpr int64_t kSubChunkSteps = 64;  // steps per launch when layers run as a wavefront
constexpr int64_t kCallsAtOnce = 4;     // most calls in one launch: directions, or layers

// When clusters split the depth of a persistent kernel's GEMMs (plan.cpp).
constexpr int64_t kLeastBytesToSplit = 8 << 20;  // gates' gradients that all blocks read in a step

// When a kernel whose blocks wait for one another gives up (common/wait_limit.h).
constexpr int64_t kWaitSeconds = 10;    // that a block waits for another
constexpr int64_t kStartSeconds = 600;  // the same, until all blocks have begun

}  // namespace fastrnn::cuda
