// Registers torch.ops.fastrnn, and its kernels for the CPU.
#include "bindings.h"

namespace fastrnn::ops {

STABLE_TORCH_LIBRARY(fastrnn, m) { define_ops(m); }

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) { implement_ops<CpuLayer>(m); }

}  // namespace fastrnn::ops
