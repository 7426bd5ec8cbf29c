#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kAvx2Kernels = instantiate<Avx2>();
}  // namespace fastrnn::cpu
