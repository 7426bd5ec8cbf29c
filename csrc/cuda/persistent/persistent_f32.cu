#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<float>& persistent<float, MathMode::kTensorCores>(CellKind);

}  // namespace fastrnn::cuda
