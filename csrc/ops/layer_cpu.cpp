#include "../cpu/team/cores.h"
#include "backward_pass.h"
#include "cpu_device.h"
#include "forward_pass.h"

namespace fastrnn::ops {

namespace {

template <class T, class W = T>
int64_t frozen_size(CellKind cell, const LayerShape& shape) {
  return shape.recurrences() * cpu::kernels_of<T, W>(cell).frozen_size(shape.dims);
}

void check_frozen(const LayerArgs& args, const LayerShape& shape, bool bf16_weights) {
  const auto size_of = bf16_weights                        ? frozen_size<float, cpu::Bf16>
                       : shape.dtype == ScalarType::Double ? frozen_size<double>
                                                           : frozen_size<float>;
  STD_TORCH_CHECK(args.frozen->is_cpu() && args.frozen->scalar_type() == shape.dtype && args.frozen->is_contiguous() &&
                      args.frozen->numel() == size_of(args.cell, shape),
                  "fastrnn: packed is not what _pack made of these weights");
}

// Calls pass(device, shape, T{}) with T the type that the tensors hold, but for bf16_weights.
template <class Pass>
auto on_cpu(const LayerArgs& args, const Pass& pass, bool bf16_weights = false) {
  const ScalarType dtype = args.input.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "fastrnn: on the CPU the dtype must be float32 or float64");
  STD_TORCH_CHECK(!args.batch_sizes || args.batch_sizes->is_cpu(), "fastrnn: batch_sizes must be on the CPU");
  const LayerShape shape = check_layer(args, true, bf16_weights);
  if (shape.frozen) check_frozen(args, shape, bf16_weights);
  const CpuDevice device(args);
  return dtype == ScalarType::Float ? pass(device, shape, float{}) : pass(device, shape, double{});
}

bool has_bf16_weights(const LayerArgs& args) {
  return args.input.scalar_type() == ScalarType::Float && !args.weights.empty() &&
         args.weights[0].scalar_type() == ScalarType::BFloat16;
}

// The kernels take biases in float.
void widen_biases(std::vector<Tensor>& weights) {
  for (Tensor& weight : weights) {
    if (weight.dim() == 1) weight = converted(weight, ScalarType::Float);
  }
}

LayerOutputs forward_with_bf16_weights(LayerArgs args) {
  STD_TORCH_CHECK(!args.extras, "fastrnn: with extras the weights must have the input's dtype");
  const auto pass = [&](const CpuDevice& device, const LayerShape& shape, auto) {
    widen_biases(args.weights);
    return ForwardPass<float, cpu::Bf16, CpuDevice, CpuLoops>(device, args, shape, false).run();
  };
  return on_cpu(args, pass, true);
}

}  // namespace

cpu::Choice plan_pass(const LayerShape& shape, const CellFacts& facts, int element_size, bool backward,
                      int weight_size) {
  const Dims& dims = shape.dims;
  const int64_t hidden = dims.hidden_size, units = backward ? dims.recurrent_size : hidden;
  const int64_t products = facts.multiplies_h ? facts.product_gates() + (dims.projected ? 1 : 0) : 0;
  const int64_t weights = products * hidden * dims.recurrent_size;
  const int64_t lanes = cpu::kernels().vector_bytes / element_size;
  const int gates = facts.product_gates();
  const int64_t unit_vectors = backward ? cpu::kMaxPanelVectors : cpu::panel_vectors(gates) / gates;
  const int64_t panels = cpu::ceil_div(units, facts.multiplies_h ? unit_vectors * lanes : lanes);
  const int64_t rows_a_step = shape.steps > 0 ? cpu::ceil_div(shape.rows, shape.steps) : 0;
  const int64_t step_macs = rows_a_step * (facts.multiplies_h ? weights : facts.gates * hidden * cpu::kGateMacs);
  const bool input_in_loop = facts.multiplies_h && !facts.reads_input;
  const auto choose = [&](int threads) {
    return cpu::choose_plan({.threads = threads,
                             .layers = shape.layers,
                             .directions = shape.directions,
                             .steps = shape.steps,
                             .batch = shape.batch,
                             .step_macs = step_macs,
                             .input_macs = rows_a_step * facts.gates * hidden * shape.first_input_size,
                             .weight_bytes = weights * weight_size,
                             .panels = panels,
                             .input_bytes = facts.gates * hidden * shape.largest_input_size() * weight_size,
                             .gate_bytes = facts.gates * hidden * element_size,
                             .backward = backward,
                             .frozen = shape.frozen,
                             .waits = facts.multiplies_h,
                             .input_in_loop = input_in_loop});
  };
  // torch's count, not OpenMP's: in a new Python thread OpenMP does not know of torch.set_num_threads yet.
  const cpu::Choice choice = choose(static_cast<int>(torch::stable::get_num_threads()));
  if (choice.plan.threads == 1) return choice;  // which no core can be missing for, and asking takes its time
  const int cores = cpu::usable_cores();
  if (choice.plan.threads <= cores) return choice;
  if (cores > 1) return choose(cores);
  return {choose(1).plan, Reason::kOneCore};
}

Tensor CpuLayer::freeze(CellKind cell, const std::vector<Tensor>& weights, bool bidirectional) {
  const CellFacts& facts = cell_facts(cell);
  STD_TORCH_CHECK(facts.multiplies_h, "fastrnn: the cell has no recurrent weights to pack");
  STD_TORCH_CHECK(weights.size() >= 2 && weights[0].dim() == 2 && weights[1].dim() == 2,
                  "fastrnn: weights must be w_ih, w_hh, [b_ih, b_hh], [w_hr] for each direction");
  const bool bf16_weights = weights[0].scalar_type() == ScalarType::BFloat16;
  const ScalarType dtype = bf16_weights ? ScalarType::Float : weights[0].scalar_type();
  const Place place(weights[0]);
  const int64_t directions = bidirectional ? 2 : 1;
  // A call with a batch of no rows has all shapes that decide how weights are packed.
  LayerArgs args{.cell = cell,
                 .input = empty({1, 0, weights[0].size(1)}, dtype, place),
                 .states = {empty({directions, 0, weights[1].size(1)}, dtype, place)},
                 .weights = weights,
                 .batch_sizes = {},
                 .bidirectional = bidirectional,
                 .allow_tf32 = false};
  for (int k = 0; k < facts.cell_states; ++k) {
    args.states.push_back(empty({directions, 0, weights[1].size(0) / facts.product_gates()}, dtype, place));
  }
  const auto freeze = [&]<class T, class W>(const CpuDevice& device, const LayerShape& shape, T, W) {
    const int64_t size = frozen_size<T, W>(cell, shape) / shape.directions;
    const Tensor frozen = device.empty({shape.directions * size}, shape.dtype);
    std::vector<Tensor> dense = all_dense(device, weights);
    if (bf16_weights) widen_biases(dense);
    for (int64_t d = 0; d < shape.directions; ++d) {
      ForwardParams<T, T, W> params{};
      params.dims = shape.dims;
      Weights<T, W>(dense, shape, d).set(params);
      cpu::kernels_of<T, W>(cell).freeze(params, data<T>(frozen) + d * size);
    }
    return frozen;
  };
  const auto pass = [&](const CpuDevice& device, const LayerShape& shape, auto type) {
    if (bf16_weights) return freeze(device, shape, float{}, cpu::Bf16{});
    return freeze(device, shape, type, type);
  };
  return on_cpu(args, pass, bf16_weights);
}

LayerOutputs CpuLayer::forward(const LayerArgs& args, bool keep) {
  if (!keep && has_bf16_weights(args)) return forward_with_bf16_weights(args);
  return on_cpu(args, [&](const CpuDevice& device, const LayerShape& shape, auto type) {
    using T = decltype(type);
    return ForwardPass<T, T, CpuDevice, CpuLoops>(device, args, shape, keep).run();
  });
}

LayerInputGrads CpuLayer::backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                   const Tensor& reserve, const GradRequest& request) {
  return on_cpu(args, [&](const CpuDevice& device, const LayerShape& shape, auto type) {
    return BackwardPass<decltype(type), CpuDevice, CpuLoops>(device, args, shape, grads, output, reserve).run(request);
  });
}

namespace {

// Of a pass over all steps at once: the gates' with w_ih, or the gradient of w_hh.
template <class T, class W>
cpu::GemmShape large_gemm(const LayerShape& shape, int gates, bool backward) {
  const int64_t columns = gates * shape.dims.hidden_size, input_size = shape.largest_input_size();
  return {.threads = static_cast<int>(torch::stable::get_num_threads()),
          .rows = backward ? columns : shape.rows,
          .columns = backward ? shape.dims.recurrent_size : columns,
          .depth = backward ? shape.rows : input_size,
          .by_columns = backward,
          .weight_bytes = backward ? 0 : columns * input_size * static_cast<int64_t>(sizeof(W)),
          .reads_rows = !backward,
          .element_size = sizeof(T),
          .narrow_weights = !std::is_same_v<T, W>};
}

}  // namespace

PassPlan CpuLayer::plan(const LayerArgs& args, bool backward) {
  const auto plan = [&]<class T, class W>(const LayerShape& shape, T, W) {
    const CellFacts& facts = cell_facts(args.cell);
    const cpu::Choice choice = plan_pass(shape, facts, sizeof(T), backward, sizeof(W));
    // The tile does not depend on how weights are stored.
    const auto& kernels = cpu::kernels_of<T>(args.cell);
    const auto [rows, vectors] = backward ? kernels.backward_tile : kernels.forward_tile;
    const int64_t columns = int64_t{vectors} * cpu::kernels().vector_bytes / static_cast<int64_t>(sizeof(T));
    const cpu::Split split = choice.plan.split;
    const bool runs_apart = split == cpu::Split::kDirections || split == cpu::Split::kLayers;
    const InputProduct input_product = choice.plan.input_steps > 0 ? InputProduct::kInLoop : InputProduct::kAhead;
    const bool none_ahead = !backward && input_product == InputProduct::kInLoop;
    const cpu::GemmShape gemm = large_gemm<T, W>(shape, facts.gates, backward);
    return PassPlan{.path = Path::kFused,
                    .tile_rows = rows,
                    .tile_columns = columns,
                    .threads = runs_apart ? 1 : choice.plan.threads,
                    .weights = static_cast<int64_t>(choice.plan.weights),
                    .input_product = backward ? -1 : static_cast<int64_t>(input_product),
                    .gemm = none_ahead ? -1 : static_cast<int64_t>(cpu::choose_gemm_plan(gemm).code),
                    .reasons = {choice.reason}};
  };
  const bool bf16_weights = has_bf16_weights(args);
  const auto pass = [&](const CpuDevice&, const LayerShape& shape, auto type) {
    return bf16_weights ? plan(shape, float{}, cpu::Bf16{}) : plan(shape, type, type);
  };
  return on_cpu(args, pass, bf16_weights);
}

}  // namespace fastrnn::ops
