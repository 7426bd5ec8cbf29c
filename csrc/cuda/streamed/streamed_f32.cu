#include "streamed.cuh"

template const fastrnn::cuda::StreamedKernels<float>& fastrnn::cuda::streamed(CellKind);
