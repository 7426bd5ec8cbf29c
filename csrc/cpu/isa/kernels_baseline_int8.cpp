#include "instantiate.h"

namespace fastrnn::cpu {
const DtypeKernels<float, Int8> kBaselineInt8Kernels = instantiate_stored_as<Baseline, float, Int8>(PlainCells{});
}  // namespace fastrnn::cpu
