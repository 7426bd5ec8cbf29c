// What the ops take from a torch that has CUDA. A torch without it lacks these functions, and fastrnn still loads
// there.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/kernels.h"
#include "tensor.h"

namespace fastrnn::ops {

// While it lives, work goes to the device of a tensor, on the stream that torch has made current there.
class CudaContext {
 public:
  CudaContext(const Tensor& on, bool allow_tf32);

  const cuda::Queue& queue() const { return queue_; }

 private:
  std::optional<torch::stable::accelerator::DeviceGuard> guard_;
  cuda::Queue queue_;
};

// Names what runs while it lives in torch's profiler (and in NVTX, under torch.autograd.profiler.emit_nvtx).
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name);
  ~ProfilerRange();
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  AtenRecordFunctionHandle range_ = nullptr;
};

// Whether the host may read a tensor of batch sizes without waiting for a GPU.
bool host_reads(const Tensor& batch_sizes);

}  // namespace fastrnn::ops
