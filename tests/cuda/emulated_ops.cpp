// The ops of csrc/ops/*cuda* on the host emulation, as torch.ops.fastrnn_emulated: what runs is the code for GPUs, on
// tensors of the CPU. Takes the place of register_cuda.cpp and torch_cuda.cpp.
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "cuda/common/wait_limit.h"
#include "device.h"
#include "memory.h"
#include "ops/bindings.h"
#include "ops/torch_cuda.h"

namespace {

std::map<std::string, int64_t, std::less<>> passes;  // by path

}  // namespace

// Tells a test which kernels a call took.
extern "C" __attribute__((visibility("default"))) int64_t fastrnn_emulated_passes(const char* path) {
  return passes[path];
}

// As if a block of the last call had given up waiting for another.
extern "C" __attribute__((visibility("default"))) void fastrnn_emulated_give_up() {
  const fastrnn::Dims dims{3, 32, 32, false};
  const auto limit = fastrnn::cuda::wait_limit(fastrnn::Path::kPersistent, true, dims, 7);
  *limit.report = limit.call;
}

// Whether graphs are captured: by the caller, by another thread.
extern "C" __attribute__((visibility("default"))) void fastrnn_emulated_capture(bool here, bool elsewhere) {
  fastrnn::emulation::device().captures = here;
  fastrnn::emulation::device().captures_elsewhere = elsewhere;
}

// How often the host has waited for the GPU.
extern "C" __attribute__((visibility("default"))) int fastrnn_emulated_synchronised() {
  return fastrnn::emulation::device().synchronised;
}

namespace fastrnn::ops {

CudaContext::CudaContext(const Tensor&, bool allow_tf32) : queue_{nullptr, nullptr, allow_tf32} {
  emulation::host_memory_counts = true;
}

ProfilerRange::ProfilerRange(const char* name) {
  const std::string_view words(name);
  ++passes[std::string(words.substr(words.rfind(' ') + 1))];
}
ProfilerRange::~ProfilerRange() = default;

// On a CPU the host can read every tensor, so the tests say which it may not.
bool host_reads(const Tensor& batch_sizes) {
  const char* hidden = std::getenv("FASTRNN_EMULATE_DEVICE_SIZES");
  return batch_sizes.is_cpu() && !(hidden && *hidden == '1');
}

STABLE_TORCH_LIBRARY(fastrnn_emulated, m) { define_ops(m); }

STABLE_TORCH_LIBRARY_IMPL(fastrnn_emulated, CPU, m) { implement_ops<CudaLayer>(m); }

}  // namespace fastrnn::ops
