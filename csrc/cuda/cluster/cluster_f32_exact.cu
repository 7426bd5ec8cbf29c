#include "cluster.cuh"

namespace fastrnn::cuda {

template const ClusterKernels<float>& cluster<float, MathMode::kExact>(CellKind, int64_t);

}  // namespace fastrnn::cuda
