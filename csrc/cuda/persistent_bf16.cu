#include "persistent.cuh"

template const fastrnn::cuda::PersistentKernels<__nv_bfloat16>& fastrnn::cuda::persistent<__nv_bfloat16>(CellKind);
