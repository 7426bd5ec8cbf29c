#include "streamed.cuh"

template const fastrnn::cuda::StreamedKernels<__half>& fastrnn::cuda::streamed(CellKind);
