#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<float>& persistent<float, MathMode::kExact>(CellKind);

}  // namespace fastrnn::cuda
