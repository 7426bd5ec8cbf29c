#include "cuda_verdicts.h"

#include <cstdlib>
#include <cstring>

#include "../cells/registry.h"
#include "../cuda/common/error.h"
#include "../cuda/common/launch.h"

namespace fastrnn::ops {

VerifiedKernel::Key VerifiedKernel::key() const {
  const cuda::Grid& grid = plan.grid;
  return {device,
          static_cast<int64_t>(cell),
          static_cast<int64_t>(dtype),
          backward,
          dims.hidden_size,
          dims.batch,
          static_cast<int64_t>(plan.path),
          static_cast<int64_t>(plan.math),
          grid.unit_blocks,
          grid.batch_groups,
          grid.calls,
          grid.split,
          dims.recurrent_size};
}

std::string VerifiedKernel::words() const {
  return std::string("the ") + name_of(plan.path) + " kernel of " + cell_facts(cell).name.text + ", " +
         (backward ? "backward" : "forward") + ", in " + torch::headeronly::toString(dtype) + " (hidden_size " +
         std::to_string(dims.hidden_size) + ", batch " + std::to_string(dims.batch) + ")";
}

Verdicts& Verdicts::instance() {
  static Verdicts verdicts;
  return verdicts;
}

std::optional<Verdict> Verdicts::of(const VerifiedKernel& kernel) {
  const std::lock_guard lock(known_);
  const auto found = verdicts_.find(kernel.key());
  return found != verdicts_.end() ? std::optional(found->second) : std::nullopt;
}

std::mutex& Verdicts::judging(int device) {
  const std::lock_guard lock(known_);
  return judging_[device];
}

void Verdicts::set(const VerifiedKernel& kernel, Verdict verdict) {
  const std::lock_guard lock(known_);
  verdicts_[kernel.key()] = verdict;
}

void Verdicts::warn(const VerifiedKernel& kernel, const std::string& fault) {
  cudaDeviceProp properties{};
  cuda::check(cudaGetDeviceProperties(&properties, kernel.device));
  const std::string message = std::string("fastrnn: on this ") + properties.name + ", " + kernel.words() + ", " +
                              fault +
                              ". This process takes the streamed path in its place. Please report this, with the "
                              "driver's version.";
  aoti_torch_warn(__func__, __FILE__, __LINE__, message.c_str());
}

bool wants_verification() {
  const char* const wish = std::getenv("FASTRNN_CUDA_VERIFY");
  if (!wish || !*wish || std::strcmp(wish, "1") == 0) return true;
  if (std::strcmp(wish, "0") == 0) return false;
  throw std::runtime_error("fastrnn: FASTRNN_CUDA_VERIFY=" + std::string(wish) +
                           ": 0 takes kernels unverified, and without it they are compared with the streamed path");
}

bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) == cudaSuccess) return status != cudaStreamCaptureStatusNone;
  cudaGetLastError();  // another thread's capture forbids the question
  return true;
}

}  // namespace fastrnn::ops
