#include "streamed.cuh"

template const fastrnn::cuda::StreamedKernels<double>& fastrnn::cuda::streamed(CellKind);
