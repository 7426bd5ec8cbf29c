#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<float>& cluster<float, Math::kTensorCores>(CellKind, int64_t);

}  // namespace fastrnn::cuda
