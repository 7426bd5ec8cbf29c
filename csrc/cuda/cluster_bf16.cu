#include "cluster.cuh"

template const fastrnn::cuda::ClusterKernels<__nv_bfloat16>& fastrnn::cuda::cluster<__nv_bfloat16>(CellKind, int64_t);
