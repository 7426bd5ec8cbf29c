// Registers the kernels of torch.ops.fastrnn for GPUs.
#include "bindings.h"

namespace fastrnn::ops {

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CUDA, m) { implement_ops<CudaLayer>(m); }

}  // namespace fastrnn::ops
