#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<float>& persistent<float, Math::kTensorCores>(CellKind);

}  // namespace fastrnn::cuda
