#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kBaselineKernels = instantiate<Baseline>(kBaselineInt8Kernels);
}  // namespace fastrnn::cpu
