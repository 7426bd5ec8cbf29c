// The ops as torch sees them: their schemas, and adapters from what torch hands over to a layer's passes.
//
// `forward` and `backward` are public: torch.compile and torch.export see them, and Python gives them fake kernels and
// autograd. The others are the same kernels bare, for fastrnn/_ops/autograd.py: `_forward`, `_backward`, `_infer`,
// which keeps nothing for backward; and of calls without extras `_plain_forward` and so on, whose tensors are the
// primals in one list: a call that has little to compute spends a third of its time on arguments
// (benchmarks/overhead.py). Exported programs contain the public schemas: tests/schemas.txt has them all.
#pragma once

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <tuple>
#include <utility>

#include "../cells/registry.h"
#include "layer.h"

namespace fastrnn::ops {

using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;
using OptionalTensors = std::vector<OptionalTensor>;

// A call of layers; `states` are one for each that the cell has, and behind them, if states are reset, as many that
// take their place. No list of tensors is empty: AOTInductor hands None over for it.
inline const std::string kTensors = "Tensor input, Tensor[] states, Tensor[] weights";
inline const std::string kSettings = "Tensor? batch_sizes, bool bidirectional, bool allow_tf32";
// What it adds to the plain recurrence. state_grad_clip has no part in forward, but in its derivative.
inline const std::string kExtraArguments =
    "Tensor? cuts, Tensor? h_mask, Tensor[]? kept, float[]? shares, float? state_grad_clip, bool return_cells, "
    "int[]? activations";
inline const std::string kArguments = kTensors + ", " + kSettings + ", " + kExtraArguments;
// What backward takes besides, of forward and of the caller; see GradRequest.
inline const std::string kSaved = "Tensor output, Tensor reserve";
inline const std::string kRequest = "bool input_grad, bool weight_grads, int groups";

inline void define_ops(torch::stable::detail::StableLibrary& library) {
  const auto define = [&](const std::string& schema) { library.def(schema.c_str()); };
  for (const std::string raw : {"", "_"}) {
    define(raw + "forward(str cell, " + kArguments +
           ") -> (Tensor output, Tensor[] final_states, Tensor cells, Tensor reserve)");
    define(raw + "backward(str cell, Tensor? grad_output, Tensor?[] grad_final_states, Tensor? grad_cells, " + kSaved +
           ", " + kRequest + ", " + kArguments +
           ") -> (Tensor grad_input, Tensor[] grad_states, Tensor[] grad_weights)");
  }
  define("_infer(str cell, " + kArguments + ") -> (Tensor output, Tensor[] final_states, Tensor cells)");
  // The primals are input, states and weights; the results their outputs, and the gradients those of the primals, the
  // input's empty unless asked for.
  const std::string plain = "(str cell, Tensor[] primals, " + kSettings;
  define("_plain_infer" + plain + ", Tensor? packed) -> Tensor[] outputs");
  define("_plain_forward" + plain + ") -> Tensor[] outputs_and_reserve");
  define("_plain_backward" + plain + ", Tensor?[] grads, " + kSaved + ", " + kRequest + ") -> Tensor[] grad_primals");
  // How a pass of a call will run: layer.h's PassPlan, in the numbers of pass_words.h.
  define("_plan" + plain + ", Tensor? packed, bool extended, bool backward) -> (int path, int architecture, int " +
         "tile_rows, int tile_columns, int threads, int weights, int input_product, int gemm, int[] reasons)");
  // The recurrent weights and biases of one layer, as `packed` of _plain_infer takes those of all; of narrowed ones
  // w_ih, too. See CpuLayer::freeze.
  define("_pack(str cell, Tensor[] weights, bool bidirectional, bool narrowed, Tensor[]? scales) -> Tensor[]");
  define("_random_mask(Tensor seed, Tensor like, SymInt count, float probability, float value) -> Tensor");
}

// What torch hands over for "str cell". Not std::string: to make one, torch's headers leak one, in 2.11 to 2.13.
inline CellKind take_cell(StringHandle handle) {
  const char* text = nullptr;
  size_t length = 0;
  TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
  TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  const std::optional<CellKind> cell = find_cell({text, length});
  const std::string unknown = cell ? "" : std::string(text, length);
  TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  STD_TORCH_CHECK(cell || !is_another_version(unknown),
                  "fastrnn: this was exported or compiled with another version of '", without_hash(unknown), "', ",
                  unknown, ": export or compile it again");
  STD_TORCH_CHECK(cell, "fastrnn: unknown cell '", unknown, "'");
  return *cell;
}

template <class T>
using OptionalList = std::optional<std::vector<T>>;

// Layer is CpuLayer or CudaLayer.
template <class Layer>
struct Ops {
  static std::tuple<Tensor, Tensors, Tensor, Tensor> forward(StringHandle cell, Tensor input, Tensors states,
                                                             Tensors weights, OptionalTensor batch_sizes,
                                                             bool bidirectional, bool allow_tf32, OptionalTensor cuts,
                                                             OptionalTensor h_mask, OptionalList<Tensor> kept,
                                                             OptionalList<double> shares,
                                                             std::optional<double> state_grad_clip, bool return_cells,
                                                             OptionalList<int64_t> activations) {
    const LayerArgs args = extended({take_cell(cell), input, states, weights, batch_sizes, bidirectional, allow_tf32},
                                    extras(cuts, h_mask, kept, shares, state_grad_clip, return_cells, activations));
    const LayerOutputs out = Layer::forward(args, true);
    return {out.output, out.states, cells(out), *out.reserve};
  }

  static std::tuple<Tensor, Tensors, Tensor> infer(StringHandle cell, Tensor input, Tensors states, Tensors weights,
                                                   OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32,
                                                   OptionalTensor cuts, OptionalTensor h_mask,
                                                   OptionalList<Tensor> kept, OptionalList<double> shares,
                                                   std::optional<double> state_grad_clip, bool return_cells,
                                                   OptionalList<int64_t> activations) {
    const LayerArgs args = extended({take_cell(cell), input, states, weights, batch_sizes, bidirectional, allow_tf32},
                                    extras(cuts, h_mask, kept, shares, state_grad_clip, return_cells, activations));
    const LayerOutputs out = Layer::forward(args, false);
    return {out.output, out.states, cells(out)};
  }

  static std::tuple<Tensor, Tensors, Tensors> backward(
      StringHandle cell, OptionalTensor grad_output, OptionalTensors grad_final_states, OptionalTensor grad_cells,
      Tensor output, Tensor reserve, bool input_grad, bool weight_grads, int64_t groups, Tensor input, Tensors states,
      Tensors weights, OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32, OptionalTensor cuts,
      OptionalTensor h_mask, OptionalList<Tensor> kept, OptionalList<double> shares,
      std::optional<double> state_grad_clip, bool return_cells, OptionalList<int64_t> activations) {
    const LayerArgs args = extended({take_cell(cell), input, states, weights, batch_sizes, bidirectional, allow_tf32},
                                    extras(cuts, h_mask, kept, shares, state_grad_clip, return_cells, activations));
    LayerInputGrads grads = Layer::backward(args, {grad_output, grad_final_states, grad_cells}, output, reserve,
                                            {input_grad, weight_grads, groups});
    append(grads.states, grads.reset_states);
    return {grads.input, grads.states, grads.weights};
  }

  static Tensors plain_infer(StringHandle cell, Tensors primals, OptionalTensor batch_sizes, bool bidirectional,
                             bool allow_tf32, OptionalTensor packed) {
    LayerArgs args = plain(take_cell(cell), primals, batch_sizes, bidirectional, allow_tf32);
    args.frozen = packed;
    return outputs(Layer::forward(args, false));
  }

  static Tensors plain_forward(StringHandle cell, Tensors primals, OptionalTensor batch_sizes, bool bidirectional,
                               bool allow_tf32) {
    return outputs(Layer::forward(plain(take_cell(cell), primals, batch_sizes, bidirectional, allow_tf32), true));
  }

  static Tensors plain_backward(StringHandle cell, Tensors primals, OptionalTensor batch_sizes, bool bidirectional,
                                bool allow_tf32, OptionalTensors grads, Tensor output, Tensor reserve, bool input_grad,
                                bool weight_grads, int64_t groups) {
    STD_TORCH_CHECK(!grads.empty(), "fastrnn: grads must be those of the outputs");
    const LayerArgs args = plain(take_cell(cell), primals, batch_sizes, bidirectional, allow_tf32);
    LayerInputGrads results = Layer::backward(args, {grads[0], {grads.begin() + 1, grads.end()}}, output, reserve,
                                              {input_grad, weight_grads, groups});
    Tensors flat{results.input};
    append(flat, results.states);
    append(flat, results.weights);
    return flat;
  }

  static std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, std::vector<int64_t>> plan(
      StringHandle cell, Tensors primals, OptionalTensor batch_sizes, bool bidirectional, bool allow_tf32,
      OptionalTensor packed, bool extended, bool backward) {
    LayerArgs args = plain(take_cell(cell), primals, batch_sizes, bidirectional, allow_tf32);
    args.frozen = packed;
    if (extended) args.extras.emplace();
    const PassPlan plan = Layer::plan(args, backward);
    std::vector<int64_t> reasons;
    for (Reason reason : plan.reasons) reasons.push_back(static_cast<int64_t>(reason));
    return {static_cast<int64_t>(plan.path),
            plan.architecture,
            plan.tile_rows,
            plan.tile_columns,
            plan.threads,
            plan.weights,
            plan.input_product,
            plan.gemm,
            reasons};
  }

 private:
  static LayerArgs plain(CellKind cell, const Tensors& primals, const OptionalTensor& batch_sizes, bool bidirectional,
                         bool allow_tf32) {
    const int states = cell_facts(cell).states();
    STD_TORCH_CHECK(static_cast<int>(primals.size()) > 1 + states,
                    "fastrnn: primals must be the input, the states, and weights");
    const auto weights = primals.begin() + 1 + states;
    return {.cell = cell,
            .input = primals[0],
            .states = {primals.begin() + 1, weights},
            .weights = {weights, primals.end()},
            .batch_sizes = batch_sizes,
            .bidirectional = bidirectional,
            .allow_tf32 = allow_tf32};
  }

  static void append(Tensors& to, const Tensors& from) { to.insert(to.end(), from.begin(), from.end()); }

  static Tensors outputs(const LayerOutputs& out) {
    Tensors flat{out.output};
    append(flat, out.states);
    if (out.reserve) flat.push_back(*out.reserve);
    return flat;
  }

  static LayerExtras extras(const OptionalTensor& cuts, const OptionalTensor& h_mask, const OptionalList<Tensor>& kept,
                            const OptionalList<double>& shares, const std::optional<double>& clip, bool cells,
                            const OptionalList<int64_t>& activations) {
    return {.reset_states = {},
            .cuts = cuts,
            .h_mask = h_mask,
            .kept = kept.value_or(Tensors{}),
            .shares = shares.value_or(std::vector<double>{}),
            .clip = clip,
            .cells = cells,
            .activations = activations.value_or(std::vector<int64_t>{})};
  }

  // With extras, unless there are none and the cell has loops without them; states behind the cell's are reset states.
  static LayerArgs extended(LayerArgs args, LayerExtras extras) {
    const CellFacts& facts = cell_facts(args.cell);
    const auto own = args.states.begin() + std::min<ptrdiff_t>(facts.states(), std::ssize(args.states));
    extras.reset_states.assign(own, args.states.end());
    args.states.erase(own, args.states.end());
    if (!facts.plain || extras.any()) args.extras = extras;
    return args;
  }

  static Tensor cells(const LayerOutputs& out) {
    return out.cells ? *out.cells : empty({0}, out.output.scalar_type(), Place(out.output));
  }
};

template <class Layer>
void implement_ops(torch::stable::detail::StableLibrary& library) {
  using Own = Ops<Layer>;
  library.impl("forward", TORCH_BOX(&Own::forward));
  library.impl("backward", TORCH_BOX(&Own::backward));
  library.impl("_forward", TORCH_BOX(&Own::forward));
  library.impl("_backward", TORCH_BOX(&Own::backward));
  library.impl("_infer", TORCH_BOX(&Own::infer));
  library.impl("_plain_forward", TORCH_BOX(&Own::plain_forward));
  library.impl("_plain_backward", TORCH_BOX(&Own::plain_backward));
  library.impl("_plain_infer", TORCH_BOX(&Own::plain_infer));
  library.impl("_plan", TORCH_BOX(&Own::plan));
}

}  // namespace fastrnn::ops
