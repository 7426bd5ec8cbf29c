#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kBaselineKernels = instantiate<Baseline>();
}  // namespace fastrnn::cpu
