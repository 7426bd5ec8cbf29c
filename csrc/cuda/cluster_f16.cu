#include "cluster.cuh"

template const fastrnn::cuda::ClusterKernels<__half>& fastrnn::cuda::cluster<__half>(CellKind, int64_t);
