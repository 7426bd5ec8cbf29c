// Registers torch.ops.fastrnn, and its kernels for the CPU.
#include "bindings.h"

namespace fastrnn::ops {

STABLE_TORCH_LIBRARY(fastrnn, m) { define_ops(m); }

template <CellKind kCell>
Tensor freeze(Tensors weights, bool bidirectional) {
  return CpuLayer::freeze(kCell, weights, bidirectional);
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  implement_ops<CpuLayer>(m);
  m.impl("_rnn_tanh_freeze", TORCH_BOX(&freeze<CellKind::kRnnTanh>));
  m.impl("_rnn_relu_freeze", TORCH_BOX(&freeze<CellKind::kRnnRelu>));
  m.impl("_lstm_freeze", TORCH_BOX(&freeze<CellKind::kLstm>));
  m.impl("_gru_freeze", TORCH_BOX(&freeze<CellKind::kGru>));
}

}  // namespace fastrnn::ops
