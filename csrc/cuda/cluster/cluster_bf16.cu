#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<__nv_bfloat16>& cluster<__nv_bfloat16, MathMode::kTensorCores>(CellKind, int64_t);

}  // namespace fastrnn::cuda
