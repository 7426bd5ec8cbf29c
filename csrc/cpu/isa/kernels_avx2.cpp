#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kAvx2Kernels = instantiate<Avx2>(kAvx2Int8Kernels);
}  // namespace fastrnn::cpu
