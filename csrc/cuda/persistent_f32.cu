#include "persistent.cuh"

template const fastrnn::cuda::PersistentKernels<float>& fastrnn::cuda::persistent<float>(CellKind);
