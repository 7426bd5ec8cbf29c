#include "cpu_device.h"
#include "layer_pass.h"

namespace fastrnn::ops {

namespace {

// Calls pass(device, shape, T{}) with T the type that the tensors hold, but for bf16_weights.
template <class Pass>
auto on_cpu(const LayerArgs& args, const Pass& pass, bool bf16_weights = false) {
  const ScalarType dtype = args.input.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "fastrnn: on the CPU the dtype must be float32 or float64");
  STD_TORCH_CHECK(!args.batch_sizes || args.batch_sizes->is_cpu(), "fastrnn: batch_sizes must be on the CPU");
  const LayerShape shape = check_layer(args, true, bf16_weights);
  const CpuDevice device(args);
  return dtype == ScalarType::Float ? pass(device, shape, float{}) : pass(device, shape, double{});
}

bool has_bf16_weights(const LayerArgs& args) {
  return args.input.scalar_type() == ScalarType::Float && !args.weights.empty() &&
         args.weights[0].scalar_type() == ScalarType::BFloat16;
}

LayerOutputs forward_with_bf16_weights(LayerArgs args) {
  const auto pass = [&](const CpuDevice& device, const LayerShape& shape, auto) {
    for (Tensor& weight : args.weights) {
      if (weight.dim() == 1) weight = converted(weight, ScalarType::Float);
    }
    return ForwardPass<float, cpu::Bf16, CpuDevice, CpuLoops>(device, args, shape, false).run();
  };
  return on_cpu(args, pass, true);
}

}  // namespace

cpu::Choice plan_pass(const LayerShape& shape, int gates, int element_size, bool backward, int weight_size) {
  const Dims& dims = shape.dims;
  const int64_t weights = dims.hidden_size * dims.recurrent_size * (gates + (dims.projected ? 1 : 0));
  const int64_t lanes = cpu::kernels().vector_bytes / element_size;
  const int64_t panel_vectors = backward ? cpu::kMaxPanelVectors : cpu::kMaxPanelVectors / gates;
  const int64_t panels = cpu::ceil_div(backward ? dims.recurrent_size : dims.hidden_size, panel_vectors * lanes);
  const int64_t rows_a_step = shape.steps > 0 ? cpu::ceil_div(shape.rows, shape.steps) : 0;
  // torch's count, not OpenMP's: in a new Python thread OpenMP does not know of torch.set_num_threads yet.
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  return cpu::choose_plan({threads, shape.directions, shape.steps, shape.batch, rows_a_step * weights,
                           weights * weight_size, panels, backward});
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

}  // namespace fastrnn::ops
