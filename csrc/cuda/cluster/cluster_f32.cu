#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<float>& cluster<float, MathMode::kTensorCores>(CellKind, int64_t);

}  // namespace fastrnn::cuda
