#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<__half>& persistent<__half, MathMode::kTensorCores>(CellKind);

}  // namespace fastrnn::cuda
