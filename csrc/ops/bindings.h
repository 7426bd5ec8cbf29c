// The ops as torch sees them: schemas, and adapters from their arguments to a layer's passes. For every cell there are
// `<cell>_forward`, `<cell>_backward`, which Python gives fake kernels and autograd; `_<cell>_forward`,
// `_<cell>_backward`, the same kernels bare, for autograd.py; and `_<cell>_infer`, forward that keeps nothing.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>

#include "layer.h"

namespace fastrnn::ops {

using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

// What an op takes and returns; states are "Tensor hx" or "Tensor hx, Tensor cx". An infer op keeps nothing for
// backward.
inline std::string forward_schema(const std::string& name, bool has_cell_state, bool infer) {
  return name + "(Tensor input, Tensor hx, " + (has_cell_state ? "Tensor cx, " : "") +
         "Tensor[] weights, Tensor? batch_sizes, bool bidirectional, bool allow_tf32" +
         (infer ? ", Tensor? frozen=None" : "") + ") -> (Tensor output, Tensor hy" +
         (has_cell_state ? ", Tensor cy" : "") + (infer ? ")" : ", Tensor reserve)");
}

inline std::string backward_schema(const std::string& name, bool has_cell_state) {
  return name + "(Tensor? grad_output, Tensor? grad_hy, " + (has_cell_state ? "Tensor? grad_cy, " : "") +
         "Tensor input, Tensor hx, " + (has_cell_state ? "Tensor cx, " : "") +
         "Tensor[] weights, Tensor output, Tensor reserve, Tensor? batch_sizes, bool bidirectional, bool allow_tf32, "
         "bool input_grad, bool weight_grads, int groups) -> (Tensor grad_input, Tensor grad_hx, " +
         (has_cell_state ? "Tensor grad_cx, " : "") + "Tensor[] grad_weights)";
}

inline void define_ops(torch::stable::detail::StableLibrary& library) {
  for (const std::string cell : {"rnn_tanh", "rnn_relu", "lstm", "gru"}) {
    const bool has_cell_state = cell == "lstm";
    for (const std::string& name : {cell, "_" + cell}) {
      library.def(forward_schema(name + "_forward", has_cell_state, false).c_str());
      library.def(backward_schema(name + "_backward", has_cell_state).c_str());
    }
    library.def(forward_schema("_" + cell + "_infer", has_cell_state, true).c_str());
    library.def(("_" + cell + "_freeze(Tensor[] weights, bool bidirectional) -> Tensor").c_str());
  }
}

// Layer is CpuLayer or CudaLayer.
template <class Layer, CellKind kCell>
struct CellOps {
  static std::tuple<Tensor, Tensor, Tensor> forward(Tensor input, Tensor hx, Tensors weights,
                                                    OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32) {
    LayerOutputs out = Layer::forward({kCell, input, hx, {}, weights, batch_sizes, bidirectional, allow_tf32}, true);
    return {out.output, out.hy, *out.reserve};
  }

  static std::tuple<Tensor, Tensor> infer(Tensor input, Tensor hx, Tensors weights, OptionalTensor batch_sizes,
                                          bool bidirectional, bool allow_tf32, OptionalTensor frozen) {
    LayerOutputs out =
        Layer::forward({kCell, input, hx, {}, weights, batch_sizes, bidirectional, allow_tf32, frozen}, false);
    return {out.output, out.hy};
  }

  static std::tuple<Tensor, Tensor, Tensors> backward(OptionalTensor grad_output, OptionalTensor grad_hy, Tensor input,
                                                      Tensor hx, Tensors weights, Tensor output, Tensor reserve,
                                                      OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32,
                                                      bool input_grad, bool weight_grads, int64_t groups) {
    LayerInputGrads grads =
        Layer::backward({kCell, input, hx, {}, weights, batch_sizes, bidirectional, allow_tf32},
                        {grad_output, grad_hy, {}}, output, reserve, {input_grad, weight_grads, groups});
    return {grads.input, grads.hx, grads.weights};
  }
};

template <class Layer>
struct CellOps<Layer, CellKind::kLstm> {
  static std::tuple<Tensor, Tensor, Tensor, Tensor> forward(Tensor input, Tensor hx, Tensor cx, Tensors weights,
                                                            OptionalTensor batch_sizes, bool bidirectional,
                                                            bool allow_tf32) {
    LayerOutputs out =
        Layer::forward({CellKind::kLstm, input, hx, cx, weights, batch_sizes, bidirectional, allow_tf32}, true);
    return {out.output, out.hy, *out.cy, *out.reserve};
  }

  static std::tuple<Tensor, Tensor, Tensor> infer(Tensor input, Tensor hx, Tensor cx, Tensors weights,
                                                  OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32,
                                                  OptionalTensor frozen) {
    LayerOutputs out = Layer::forward(
        {CellKind::kLstm, input, hx, cx, weights, batch_sizes, bidirectional, allow_tf32, frozen}, false);
    return {out.output, out.hy, *out.cy};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensors> backward(OptionalTensor grad_output, OptionalTensor grad_hy,
                                                              OptionalTensor grad_cy, Tensor input, Tensor hx,
                                                              Tensor cx, Tensors weights, Tensor output, Tensor reserve,
                                                              OptionalTensor batch_sizes, bool bidirectional,
                                                              bool allow_tf32, bool input_grad, bool weight_grads,
                                                              int64_t groups) {
    LayerInputGrads grads =
        Layer::backward({CellKind::kLstm, input, hx, cx, weights, batch_sizes, bidirectional, allow_tf32},
                        {grad_output, grad_hy, grad_cy}, output, reserve, {input_grad, weight_grads, groups});
    return {grads.input, grads.hx, *grads.cx, grads.weights};
  }
};

template <class Layer, CellKind kCell>
void implement_cell(torch::stable::detail::StableLibrary& library, const std::string& cell) {
  using Ops = CellOps<Layer, kCell>;
  for (const std::string& name : {cell, "_" + cell}) {
    library.impl((name + "_forward").c_str(), TORCH_BOX(&Ops::forward));
    library.impl((name + "_backward").c_str(), TORCH_BOX(&Ops::backward));
  }
  library.impl(("_" + cell + "_infer").c_str(), TORCH_BOX(&Ops::infer));
}

template <class Layer>
void implement_ops(torch::stable::detail::StableLibrary& library) {
  implement_cell<Layer, CellKind::kRnnTanh>(library, "rnn_tanh");
  implement_cell<Layer, CellKind::kRnnRelu>(library, "rnn_relu");
  implement_cell<Layer, CellKind::kLstm>(library, "lstm");
  implement_cell<Layer, CellKind::kGru>(library, "gru");
}

}  // namespace fastrnn::ops
