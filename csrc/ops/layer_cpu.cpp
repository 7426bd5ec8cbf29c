#include "../cpu/team/cores.h"
#include "backward_pass.h"
#include "cpu_device.h"
#include "forward_pass.h"

namespace fastrnn::ops {

namespace {

// Of a direction of that layer, in values of T.
template <class T, class W>
int64_t frozen_size(CellKind cell, const LayerShape& shape, int64_t layer) {
  Dims dims = shape.dims;
  dims.input_size = shape.input_size(layer);
  return cpu::kernels_of<T, W>(cell).frozen_size(dims);
}

// What a tensor of packed weights is: of W if these were narrowed before, else of the call's dtype.
struct FrozenForm {
  ScalarType dtype;
  int64_t elements;  // for each value of T
};
template <class T, class W>
FrozenForm frozen_form(const LayerShape& shape) {
  if (shape.dims.input_frozen) return {scalar_type_of<W>, sizeof(T) / sizeof(W)};
  return {shape.dtype, 1};
}

template <class T, class W>
void read_frozen(const LayerArgs& args, LayerShape& shape) {
  const Tensor& frozen = *args.frozen;
  shape.frozen_first = frozen_size<T, W>(args.cell, shape, 0);
  shape.frozen_upper = frozen_size<T, W>(args.cell, shape, shape.layers - 1);
  const auto [dtype, elements] = frozen_form<T, W>(shape);
  STD_TORCH_CHECK(frozen.is_cpu() && frozen.scalar_type() == dtype && frozen.is_contiguous() &&
                      frozen.numel() == shape.frozen_offset(shape.recurrences()) * elements,
                  "fastrnn: packed is not what _pack made of these weights");
}

bool has_bf16_weights(const LayerArgs& args) {
  return args.input.scalar_type() == ScalarType::Float && !args.weights.empty() &&
         args.weights[0].scalar_type() == ScalarType::BFloat16;
}

// Whether the weights were narrowed before they were packed, to that type; see CpuLayer::freeze.
template <class W>
bool is_narrowed_to(const LayerArgs& args) {
  return args.input.scalar_type() == ScalarType::Float && args.frozen &&
         args.frozen->scalar_type() == scalar_type_of<W>;
}

std::optional<WeightTypes> types_of(const LayerArgs& args) {
  if (has_bf16_weights(args)) return WeightTypes{ScalarType::BFloat16, ScalarType::BFloat16};
  return {};
}

// Calls pass(device, shape, T{}, W{}) with T the type that the tensors hold, and W that in which weights' matrices are
// read.
template <class Pass>
auto on_cpu(const LayerArgs& args, const Pass& pass) {
  const ScalarType dtype = args.input.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "fastrnn: on the CPU the dtype must be float32 or float64");
  STD_TORCH_CHECK(!args.batch_sizes || args.batch_sizes->is_cpu(), "fastrnn: batch_sizes must be on the CPU");
  LayerShape shape = check_layer(args, true, types_of(args));
  const CpuDevice device(args);
  const auto run = [&]<class T, class W>(T value, W stored) {
    if (shape.frozen) read_frozen<T, W>(args, shape);
    return pass(device, shape, value, stored);
  };
  const bool to_bf16 = is_narrowed_to<cpu::Bf16>(args), to_int8 = is_narrowed_to<cpu::Int8>(args);
  shape.dims.input_frozen = to_bf16 || to_int8;
  if (to_int8) return run(float{}, cpu::Int8{});
  if (to_bf16 || has_bf16_weights(args)) return run(float{}, cpu::Bf16{});
  return dtype == ScalarType::Float ? run(float{}, float{}) : run(double{}, double{});
}

// The kernels take biases in float.
void widen_biases(std::vector<Tensor>& weights) {
  for (Tensor& weight : weights) {
    if (weight.dim() == 1) weight = converted(weight, ScalarType::Float);
  }
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
                             .input_in_loop = input_in_loop,
                             .input_frozen = dims.input_frozen});
  };
  // torch's count, not OpenMP's: in a new Python thread OpenMP does not know of torch.set_num_threads yet.
  const cpu::Choice choice = choose(static_cast<int>(torch::stable::get_num_threads()));
  if (choice.plan.threads == 1) return choice;  // which no core can be missing for, and asking takes its time
  const int cores = cpu::usable_cores();
  if (choice.plan.threads <= cores) return choice;
  if (cores > 1) return choose(cores);
  return {choose(1).plan, Reason::kOneCore};
}

namespace {

// Of one direction, where its matrices have scales.
template <class W>
void set_scales(ForwardParams<float, float, W>& params, const std::vector<Tensor>& scales, const LayerShape& shape,
                int64_t d) {
  const size_t count = shape.dims.projected ? 3 : 2;
  STD_TORCH_CHECK(scales.size() == count * static_cast<size_t>(shape.directions),
                  "fastrnn: scales must be of w_ih, w_hh and w_hr, for each direction");
  const auto of = [&](size_t matrix, int64_t rows) {
    const Tensor& scale = scales[count * static_cast<size_t>(d) + matrix];
    STD_TORCH_CHECK(
        scale.is_cpu() && scale.scalar_type() == ScalarType::Float && scale.is_contiguous() && scale.numel() == rows,
        "fastrnn: a scale must be there for each row of a matrix, in float");
    return data<const float>(scale);
  };
  params.scales_ih = of(0, shape.columns);
  params.scales_hh = of(1, shape.columns);
  if (shape.dims.projected) params.scales_hr = of(2, shape.dims.recurrent_size);
}

// freeze() with the weights' shapes checked: T that of biases, W of matrices.
template <class T, class W>
Tensor pack_directions(CellKind cell, const CpuDevice& device, const LayerShape& shape, std::vector<Tensor> dense,
                       const std::vector<Tensor>& scales) {
  const int64_t size = frozen_size<T, W>(cell, shape, 0);
  const auto [dtype, elements] = frozen_form<T, W>(shape);
  const Tensor frozen = device.empty({shape.directions * size * elements}, dtype);
  device.zero(data<T>(frozen), shape.directions * size);  // panels have gaps, and whoever compares copies sees them
  if constexpr (!std::is_same_v<T, W>) widen_biases(dense);
  for (int64_t d = 0; d < shape.directions; ++d) {
    ForwardParams<T, T, W> params{};
    params.dims = shape.dims;
    params.dims.input_size = shape.first_input_size;
    Weights<T, W>(dense, shape, d).set(params);
    if constexpr (cpu::kHasScales<W>) set_scales(params, scales, shape, d);
    cpu::kernels_of<T, W>(cell).freeze(params, data<T>(frozen) + d * size);
  }
  return frozen;
}

}  // namespace

Tensor CpuLayer::freeze(CellKind cell, const std::vector<Tensor>& weights, bool bidirectional, bool narrowed,
                        const std::vector<Tensor>& scales) {
  const CellFacts& facts = cell_facts(cell);
  STD_TORCH_CHECK(facts.multiplies_h, "fastrnn: the cell has no recurrent weights to pack");
  STD_TORCH_CHECK(weights.size() >= 2 && weights[0].dim() == 2 && weights[1].dim() == 2,
                  "fastrnn: weights must be w_ih, w_hh, [b_ih, b_hh], [w_hr] for each direction");
  const ScalarType stored = weights[0].scalar_type();
  STD_TORCH_CHECK(!narrowed || stored == ScalarType::BFloat16 || stored == ScalarType::Char,
                  "fastrnn: narrowed weights are bfloat16 or int8");
  const bool narrow = narrowed || stored == ScalarType::BFloat16;
  const ScalarType dtype = narrow ? ScalarType::Float : stored;
  STD_TORCH_CHECK(weights[0].is_cpu() && (dtype == ScalarType::Float || dtype == ScalarType::Double),
                  "fastrnn: on the CPU the dtype must be float32 or float64");
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
  std::optional<WeightTypes> types;
  if (narrow) types = WeightTypes{stored, narrowed ? ScalarType::Float : ScalarType::BFloat16};
  LayerShape shape = check_layer(args, true, types);
  shape.dims.input_frozen = narrowed;
  const CpuDevice device(args);
  const std::vector<Tensor> dense = all_dense(device, weights);
  if (stored == ScalarType::Char) return pack_directions<float, cpu::Int8>(cell, device, shape, dense, scales);
  if (narrow) return pack_directions<float, cpu::Bf16>(cell, device, shape, dense, scales);
  if (dtype == ScalarType::Float) return pack_directions<float, float>(cell, device, shape, dense, scales);
  return pack_directions<double, double>(cell, device, shape, dense, scales);
}

LayerOutputs CpuLayer::forward(const LayerArgs& args, bool keep) {
  return on_cpu(args, [&]<class T, class W>(const CpuDevice& device, const LayerShape& shape, T, W) {
    const auto run = [&](const LayerArgs& own) {
      return ForwardPass<T, W, CpuDevice, CpuLoops>(device, own, shape, keep).run();
    };
    if constexpr (std::is_same_v<T, W>) {
      return run(args);
    } else {
      STD_TORCH_CHECK(!keep && !args.extras,
                      "fastrnn: with extras or a reserve the weights must have the input's dtype");
      LayerArgs widened = args;
      widen_biases(widened.weights);
      return run(widened);
    }
  });
}

LayerInputGrads CpuLayer::backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                   const Tensor& reserve, const GradRequest& request) {
  return on_cpu(args, [&]<class T, class W>(const CpuDevice& device, const LayerShape& shape, T, W) {
    if constexpr (std::is_same_v<T, W>) {
      return BackwardPass<T, CpuDevice, CpuLoops>(device, args, shape, grads, output, reserve).run(request);
    } else {
      STD_TORCH_CHECK(false, "fastrnn: backward needs weights of the input's dtype");
      return LayerInputGrads{};
    }
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
  return on_cpu(args, [&]<class T, class W>(const CpuDevice&, const LayerShape& shape, T, W) {
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
  });
}

}  // namespace fastrnn::ops
