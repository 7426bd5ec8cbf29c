#include "instantiate.h"

namespace fastrnn::cpu {
const DtypeKernels<float, Int8> kAvx2Int8Kernels = instantiate_stored_as<Avx2, float, Int8>(PlainCells{});
}  // namespace fastrnn::cpu
