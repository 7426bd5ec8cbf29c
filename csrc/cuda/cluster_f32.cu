#include "cluster.cuh"

template const fastrnn::cuda::ClusterKernels<float>& fastrnn::cuda::cluster<float>(CellKind, int64_t);
