#include "backward_pass.h"
#include "cuda_device.h"
#include "forward_pass.h"

namespace fastrnn::ops {

namespace {

// Calls pass(device, shape, T{}) with T the type that the tensors hold.
template <class Pass>
auto on_gpu(const LayerArgs& args, const Pass& pass) {
  const CudaDevice device(args);
  const LayerShape shape = check_layer(args, !args.batch_sizes || host_reads(*args.batch_sizes));
  switch (shape.dtype) {
    case ScalarType::Double:
      return pass(device, shape, double{});
    case ScalarType::Float:
      return pass(device, shape, float{});
    case ScalarType::Half:
      return pass(device, shape, __half{});
    case ScalarType::BFloat16:
      return pass(device, shape, __nv_bfloat16{});
    default:
      STD_TORCH_CHECK(false, "fastrnn: on a GPU the dtype must be float64, float32, float16 or bfloat16");
  }
}

// Of the current device.
int64_t architecture() {
  int device = 0, major = 0, minor = 0;
  cuda::check(cudaGetDevice(&device));
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

}  // namespace

LayerOutputs CudaLayer::forward(const LayerArgs& args, bool keep) {
  return on_gpu(args, [&](const CudaDevice& device, const LayerShape& shape, auto type) {
    using T = decltype(type);
    return ForwardPass<T, T, CudaDevice, CudaLoops>(device, args, shape, keep).run();
  });
}

LayerInputGrads CudaLayer::backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                    const Tensor& reserve, const GradRequest& request) {
  return on_gpu(args, [&](const CudaDevice& device, const LayerShape& shape, auto type) {
    return BackwardPass<decltype(type), CudaDevice, CudaLoops>(device, args, shape, grads, output, reserve)
        .run(request);
  });
}

PassPlan CudaLayer::plan(const LayerArgs& args, bool backward) {
  return on_gpu(args, [&](const CudaDevice& device, const LayerShape& shape, auto type) {
    const auto [plan, reasons] = plan_pass<decltype(type)>(device, args, shape, backward, false);
    const int64_t units = plan.units(shape.dims);
    return PassPlan{.path = plan.path,
                    .architecture = architecture(),
                    .tile_rows = units ? cuda::kBatchRowsPerTile : 0,
                    .tile_columns = units,
                    .threads = cuda::kThreadsPerBlock,
                    .reasons = reasons};
  });
}

}  // namespace fastrnn::ops
