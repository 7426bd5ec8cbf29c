#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<__half>& cluster<__half, Math::kTensorCores>(CellKind, int64_t);

}  // namespace fastrnn::cuda
