#include "instantiate.h"

namespace fastrnn::cpu {
const Kernels kAvx512Kernels = instantiate<Avx512>(kAvx512Int8Kernels);
}  // namespace fastrnn::cpu
