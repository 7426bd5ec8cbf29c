#include "persistent.cuh"

namespace fastrnn::cuda {

template const PersistentKernels<float>& persistent<float, Math::kExact>(CellKind);

}  // namespace fastrnn::cuda
