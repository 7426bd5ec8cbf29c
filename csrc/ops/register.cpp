// The schemas of torch.ops.fastrnn. For every cell: `<cell>_forward`, `<cell>_backward`, which Python gives fake
// kernels and autograd, and `_<cell>_forward`, `_<cell>_backward`, the same kernels bare, for autograd.py.
#include <torch/csrc/stable/library.h>

#include <string>

#include "layer.h"

namespace fastrnn::ops {

namespace {

using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

template <CellKind kCell>
std::tuple<Tensor, Tensor, Tensor> forward(Tensor input, Tensor hx, Tensors weights, OptionalTensor batch_sizes,
                                           bool bidirectional, bool keep) {
  LayerOutputs out = layer_forward({kCell, input, hx, {}, weights, batch_sizes, bidirectional}, keep);
  return {out.output, out.hy, out.reserve};
}

template <CellKind kCell>
std::tuple<Tensor, Tensor, Tensor> public_forward(Tensor input, Tensor hx, Tensors weights, OptionalTensor batch_sizes,
                                                  bool bidirectional) {
  return forward<kCell>(input, hx, weights, batch_sizes, bidirectional, true);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> lstm_forward(Tensor input, Tensor hx, Tensor cx, Tensors weights,
                                                        OptionalTensor batch_sizes, bool bidirectional, bool keep) {
  LayerOutputs out = layer_forward({CellKind::kLstm, input, hx, cx, weights, batch_sizes, bidirectional}, keep);
  return {out.output, out.hy, *out.cy, out.reserve};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> public_lstm_forward(Tensor input, Tensor hx, Tensor cx, Tensors weights,
                                                               OptionalTensor batch_sizes, bool bidirectional) {
  return lstm_forward(input, hx, cx, weights, batch_sizes, bidirectional, true);
}

template <CellKind kCell>
std::tuple<Tensor, Tensor, Tensors> backward(OptionalTensor grad_output, OptionalTensor grad_hy, Tensor input,
                                             Tensor hx, Tensors weights, Tensor output, Tensor reserve,
                                             OptionalTensor batch_sizes, bool bidirectional, bool input_grad,
                                             bool weight_grads, int64_t groups) {
  LayerInputGrads grads =
      layer_backward({kCell, input, hx, {}, weights, batch_sizes, bidirectional}, {grad_output, grad_hy, {}}, output,
                     reserve, {input_grad, weight_grads, groups});
  return {grads.input, grads.hx, grads.weights};
}

std::tuple<Tensor, Tensor, Tensor, Tensors> lstm_backward(OptionalTensor grad_output, OptionalTensor grad_hy,
                                                          OptionalTensor grad_cy, Tensor input, Tensor hx, Tensor cx,
                                                          Tensors weights, Tensor output, Tensor reserve,
                                                          OptionalTensor batch_sizes, bool bidirectional,
                                                          bool input_grad, bool weight_grads, int64_t groups) {
  LayerInputGrads grads =
      layer_backward({CellKind::kLstm, input, hx, cx, weights, batch_sizes, bidirectional},
                     {grad_output, grad_hy, grad_cy}, output, reserve, {input_grad, weight_grads, groups});
  return {grads.input, grads.hx, *grads.cx, grads.weights};
}

// The arguments that all ops of a cell share; states are "Tensor hx" or "Tensor hx, Tensor cx".
std::string forward_schema(const std::string& name, bool has_cell_state, bool raw) {
  return name + "(Tensor input, Tensor hx, " + (has_cell_state ? "Tensor cx, " : "") +
         "Tensor[] weights, Tensor? batch_sizes, bool bidirectional" + (raw ? ", bool keep" : "") +
         ") -> (Tensor output, Tensor hy, " + (has_cell_state ? "Tensor cy, " : "") + "Tensor reserve)";
}

std::string backward_schema(const std::string& name, bool has_cell_state) {
  return name + "(Tensor? grad_output, Tensor? grad_hy, " + (has_cell_state ? "Tensor? grad_cy, " : "") +
         "Tensor input, Tensor hx, " + (has_cell_state ? "Tensor cx, " : "") +
         "Tensor[] weights, Tensor output, Tensor reserve, Tensor? batch_sizes, bool bidirectional, bool input_grad, "
         "bool weight_grads, int groups) -> (Tensor grad_input, Tensor grad_hx, " +
         (has_cell_state ? "Tensor grad_cx, " : "") + "Tensor[] grad_weights)";
}

}  // namespace

STABLE_TORCH_LIBRARY(fastrnn, m) {
  for (const std::string cell : {"rnn_tanh", "rnn_relu", "lstm", "gru"}) {
    const bool has_cell_state = cell == "lstm";
    m.def(forward_schema(cell + "_forward", has_cell_state, false).c_str());
    m.def(backward_schema(cell + "_backward", has_cell_state).c_str());
    m.def(forward_schema("_" + cell + "_forward", has_cell_state, true).c_str());
    m.def(backward_schema("_" + cell + "_backward", has_cell_state).c_str());
  }
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  m.impl("rnn_tanh_forward", TORCH_BOX(&public_forward<CellKind::kRnnTanh>));
  m.impl("rnn_tanh_backward", TORCH_BOX(&backward<CellKind::kRnnTanh>));
  m.impl("_rnn_tanh_forward", TORCH_BOX(&forward<CellKind::kRnnTanh>));
  m.impl("_rnn_tanh_backward", TORCH_BOX(&backward<CellKind::kRnnTanh>));
  m.impl("rnn_relu_forward", TORCH_BOX(&public_forward<CellKind::kRnnRelu>));
  m.impl("rnn_relu_backward", TORCH_BOX(&backward<CellKind::kRnnRelu>));
  m.impl("_rnn_relu_forward", TORCH_BOX(&forward<CellKind::kRnnRelu>));
  m.impl("_rnn_relu_backward", TORCH_BOX(&backward<CellKind::kRnnRelu>));
  m.impl("gru_forward", TORCH_BOX(&public_forward<CellKind::kGru>));
  m.impl("gru_backward", TORCH_BOX(&backward<CellKind::kGru>));
  m.impl("_gru_forward", TORCH_BOX(&forward<CellKind::kGru>));
  m.impl("_gru_backward", TORCH_BOX(&backward<CellKind::kGru>));
  m.impl("lstm_forward", TORCH_BOX(&public_lstm_forward));
  m.impl("lstm_backward", TORCH_BOX(&lstm_backward));
  m.impl("_lstm_forward", TORCH_BOX(&lstm_forward));
  m.impl("_lstm_backward", TORCH_BOX(&lstm_backward));
}

}  // namespace fastrnn::ops
