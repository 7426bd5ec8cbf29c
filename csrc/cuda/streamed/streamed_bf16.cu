#include "streamed.cuh"

template const fastrnn::cuda::StreamedKernels<__nv_bfloat16>& fastrnn::cuda::streamed(CellKind);
