#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kAvx512Kernels = instantiate<Avx512>();
}  // namespace fastrnn::cpu
