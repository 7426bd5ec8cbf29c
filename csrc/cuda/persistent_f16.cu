#include "persistent.cuh"

template const fastrnn::cuda::PersistentKernels<__half>& fastrnn::cuda::persistent<__half>(CellKind);
