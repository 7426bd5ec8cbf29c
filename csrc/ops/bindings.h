// The ops as torch sees them: schemas, and adapters from their arguments to a layer's passes. For every cell there are
// `<cell>_forward`, `<cell>_backward`, which Python gives fake kernels and autograd; `_<cell>_forward`,
// `_<cell>_backward`, the same kernels bare, for autograd.py; and `_<cell>_infer`, forward that keeps nothing.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <utility>

#include "../cells/facts.h"
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

// Extras as ops take them, behind batch_sizes. state_grad_clip has no part in forward, but in its derivative.
inline const std::string kExtraArguments =
    "Tensor? cuts, Tensor? h_mask, Tensor? kept_h, Tensor? kept_c, float share_h, float share_c, bool bidirectional, "
    "bool allow_tf32, float? state_grad_clip, bool return_cells, int activation, int output_activation";

inline std::string extended_forward_schema(const std::string& name, bool infer) {
  return name + "(Tensor input, Tensor[] states, Tensor[] reset_states, Tensor[] weights, Tensor? batch_sizes, " +
         kExtraArguments + ") -> (Tensor output, Tensor[] final_states, Tensor cells" +
         (infer ? ")" : ", Tensor reserve)");
}

inline std::string extended_backward_schema(const std::string& name) {
  return name +
         "(Tensor? grad_output, Tensor? grad_hy, Tensor? grad_cy, Tensor? grad_cells, Tensor input, Tensor[] states, "
         "Tensor[] reset_states, Tensor[] weights, Tensor output, Tensor reserve, Tensor? batch_sizes, " +
         kExtraArguments +
         ", bool input_grad, bool weight_grads, int groups) -> (Tensor grad_input, Tensor[] grad_states, "
         "Tensor[] grad_reset_states, Tensor[] grad_weights)";
}

inline void define_ops(torch::stable::detail::StableLibrary& library) {
  for (int kind = 0; kind < kCellKinds; ++kind) {
    const std::string cell = kCellNames[kind], raw = "_" + cell;
    const bool has_cell_state = kCellFacts[kind].has_cell_state, plain = kind < kPlainCellKinds;
    for (const std::string& name : {cell, raw}) {
      if (plain) {
        library.def(forward_schema(name + "_forward", has_cell_state, false).c_str());
        library.def(backward_schema(name + "_backward", has_cell_state).c_str());
      }
      library.def(extended_forward_schema(name + "_extended_forward", false).c_str());
      library.def(extended_backward_schema(name + "_extended_backward").c_str());
    }
    library.def(extended_forward_schema(raw + "_extended_infer", true).c_str());
    if (plain) {
      library.def(forward_schema(raw + "_infer", has_cell_state, true).c_str());
      library.def((raw + "_freeze(Tensor[] weights, bool bidirectional) -> Tensor").c_str());
    }
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

// The ops of a cell with extras.
template <class Layer, CellKind kCell>
struct ExtendedOps {
  static std::tuple<Tensor, Tensors, Tensor, Tensor> forward(
      Tensor input, Tensors states, Tensors reset_states, Tensors weights, OptionalTensor batch_sizes,
      OptionalTensor cuts, OptionalTensor h_mask, OptionalTensor kept_h, OptionalTensor kept_c, double share_h,
      double share_c, bool bidirectional, bool allow_tf32, std::optional<double> state_grad_clip, bool return_cells,
      int64_t activation, int64_t output_activation) {
    const LayerExtras extras = make(reset_states, {cuts,
                                                   {},
                                                   {},
                                                   h_mask,
                                                   kept_h,
                                                   kept_c,
                                                   share_h,
                                                   share_c,
                                                   state_grad_clip,
                                                   activation,
                                                   output_activation,
                                                   return_cells});
    LayerOutputs out =
        Layer::forward(arguments(input, states, weights, batch_sizes, bidirectional, allow_tf32, extras), true);
    return {out.output, final_states(out), cells(out), *out.reserve};
  }

  static std::tuple<Tensor, Tensors, Tensor> infer(Tensor input, Tensors states, Tensors reset_states, Tensors weights,
                                                   OptionalTensor batch_sizes, OptionalTensor cuts,
                                                   OptionalTensor h_mask, OptionalTensor kept_h, OptionalTensor kept_c,
                                                   double share_h, double share_c, bool bidirectional, bool allow_tf32,
                                                   std::optional<double> state_grad_clip, bool return_cells,
                                                   int64_t activation, int64_t output_activation) {
    const LayerExtras extras = make(reset_states, {cuts,
                                                   {},
                                                   {},
                                                   h_mask,
                                                   kept_h,
                                                   kept_c,
                                                   share_h,
                                                   share_c,
                                                   state_grad_clip,
                                                   activation,
                                                   output_activation,
                                                   return_cells});
    LayerOutputs out =
        Layer::forward(arguments(input, states, weights, batch_sizes, bidirectional, allow_tf32, extras), false);
    return {out.output, final_states(out), cells(out)};
  }

  static std::tuple<Tensor, Tensors, Tensors, Tensors> backward(
      OptionalTensor grad_output, OptionalTensor grad_hy, OptionalTensor grad_cy, OptionalTensor grad_cells,
      Tensor input, Tensors states, Tensors reset_states, Tensors weights, Tensor output, Tensor reserve,
      OptionalTensor batch_sizes, OptionalTensor cuts, OptionalTensor h_mask, OptionalTensor kept_h,
      OptionalTensor kept_c, double share_h, double share_c, bool bidirectional, bool allow_tf32,
      std::optional<double> state_grad_clip, bool return_cells, int64_t activation, int64_t output_activation,
      bool input_grad, bool weight_grads, int64_t groups) {
    const LayerExtras extras = make(reset_states, {cuts,
                                                   {},
                                                   {},
                                                   h_mask,
                                                   kept_h,
                                                   kept_c,
                                                   share_h,
                                                   share_c,
                                                   state_grad_clip,
                                                   activation,
                                                   output_activation,
                                                   return_cells});
    LayerInputGrads grads = Layer::backward(
        arguments(input, states, weights, batch_sizes, bidirectional, allow_tf32, extras),
        {grad_output, grad_hy, grad_cy, grad_cells}, output, reserve, {input_grad, weight_grads, groups});
    Tensors state_grads{grads.hx}, reset_grads;
    if (grads.cx) state_grads.push_back(*grads.cx);
    if (grads.reset_h) reset_grads.push_back(*grads.reset_h);
    if (grads.reset_c) reset_grads.push_back(*grads.reset_c);
    return {grads.input, state_grads, reset_grads, grads.weights};
  }

 private:
  static constexpr size_t kStates = cell_facts(kCell).has_cell_state ? 2 : 1;

  static LayerExtras make(const Tensors& reset_states, LayerExtras extras) {
    STD_TORCH_CHECK(reset_states.empty() || reset_states.size() == kStates,
                    "fastrnn: reset_states must be as many as states, or none");
    if (!reset_states.empty()) extras.reset_h = reset_states[0];
    if (reset_states.size() > 1) extras.reset_c = reset_states[1];
    return extras;
  }

  static LayerArgs arguments(const Tensor& input, const Tensors& states, const Tensors& weights,
                             const OptionalTensor& batch_sizes, bool bidirectional, bool allow_tf32,
                             const LayerExtras& extras) {
    STD_TORCH_CHECK(states.size() == kStates, "fastrnn: states must be hx, or hx and cx");
    OptionalTensor cx;
    if (kStates > 1) cx = states[1];
    return {kCell, input, states[0], cx, weights, batch_sizes, bidirectional, allow_tf32, {}, extras};
  }

  static Tensors final_states(const LayerOutputs& out) {
    Tensors states{out.hy};
    if (out.cy) states.push_back(*out.cy);
    return states;
  }

  static Tensor cells(const LayerOutputs& out) {
    return out.cells ? *out.cells : empty({0}, out.output.scalar_type(), Place(out.output));
  }
};

template <class Layer, CellKind kCell>
void implement_cell(torch::stable::detail::StableLibrary& library) {
  const std::string cell = cell_name(kCell);
  for (const std::string& name : {cell, "_" + cell}) {
    using Ops = ExtendedOps<Layer, kCell>;
    library.impl((name + "_extended_forward").c_str(), TORCH_BOX(&Ops::forward));
    library.impl((name + "_extended_backward").c_str(), TORCH_BOX(&Ops::backward));
  }
  library.impl(("_" + cell + "_extended_infer").c_str(), TORCH_BOX(&(ExtendedOps<Layer, kCell>::infer)));
  if constexpr (static_cast<int>(kCell) < kPlainCellKinds) {
    using Ops = CellOps<Layer, kCell>;
    for (const std::string& name : {cell, "_" + cell}) {
      library.impl((name + "_forward").c_str(), TORCH_BOX(&Ops::forward));
      library.impl((name + "_backward").c_str(), TORCH_BOX(&Ops::backward));
    }
    library.impl(("_" + cell + "_infer").c_str(), TORCH_BOX(&Ops::infer));
  }
}

template <class Layer>
void implement_ops(torch::stable::detail::StableLibrary& library) {
  [&]<int... kCell>(std::integer_sequence<int, kCell...>) {
    (implement_cell<Layer, static_cast<CellKind>(kCell)>(library), ...);
  }(std::make_integer_sequence<int, kCellKinds>{});
}

}  // namespace fastrnn::ops
