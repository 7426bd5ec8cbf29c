#include "instantiate.h"

namespace fastrnn::cpu {
const DtypeKernels<float, Int8> kAvx512Int8Kernels = instantiate_stored_as<Avx512Vnni, float, Int8>(PlainCells{});
}  // namespace fastrnn::cpu
