#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<__nv_bfloat16>& persistent<__nv_bfloat16, MathMode::kTensorCores>(CellKind);

}  // namespace fastrnn::cuda
