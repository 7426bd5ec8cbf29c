#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<__half>& cluster<__half, MathMode::kTensorCores>(CellKind, int64_t);

}  // namespace fastrnn::cuda
