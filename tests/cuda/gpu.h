// The emulated GPU as a machine of tests/kernels/kernel_run.h, once for each path through the sequence.
#pragma once

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "cuda/common/upload.h"
#include "cuda/run.h"
#include "kernels/kernel_run.h"
#include "memory.h"
#include "runtime.h"

namespace fastrnn::test {

template <class T>
class GpuMemory {
 public:
  explicit GpuMemory(int64_t count) : buffer_(static_cast<size_t>(count)) {
    std::fill(buffer_.begin(), buffer_.end(), poison<T>());
  }
  T* data() const { return buffer_.data(); }
  int64_t size() const { return static_cast<int64_t>(buffer_.size()); }
  // AddressSanitizer guards what lies around.
  bool margin_intact() const { return true; }

 private:
  emulation::Buffer<T> buffer_;
};

// Half the distance of 1 to the next number.
template <class T>
constexpr double kRoundoff = 0;
template <>
constexpr double kRoundoff<double> = 0x1p-53;
template <>
constexpr double kRoundoff<float> = 0x1p-24;
template <>
constexpr double kRoundoff<__half> = 0x1p-11;
template <>
constexpr double kRoundoff<__nv_bfloat16> = 0x1p-8;
constexpr double kTf32Roundoff = 0x1p-11;

template <class T>
std::string type_name();
template <>
inline std::string type_name<double>() {
  return "f64";
}
template <>
inline std::string type_name<float>() {
  return "f32";
}
template <>
inline std::string type_name<__half>() {
  return "f16";
}
template <>
inline std::string type_name<__nv_bfloat16>() {
  return "bf16";
}

struct GpuPlan {
  uint64_t seed;  // of the order in which threads run
  cuda::Plan plan;
};

template <class T>
class Gpu {
 public:
  using Value = T;
  using Drawn = T;
  using Accumulator = cuda::Accumulator<T>;
  template <class V>
  using Memory = GpuMemory<V>;
  using Plan = GpuPlan;
  static constexpr bool kHyHoldsHx = true;

  explicit Gpu(Path path, cuda::MathMode math = cuda::MathMode::kTensorCores)
      : path_(path), math_(math), streamed_(path == Path::kStreamed) {}

  std::string name() const {
    return type_name<T>() + (math_ == cuda::MathMode::kExact ? " exact " : " ") + name_of(path_);
  }
  std::string describe(const GpuPlan& plan) const {
    const auto& [blocks, groups, calls, split] = plan.plan.grid;
    const std::string split_by = split > 1 ? " split by " + std::to_string(split) : "";
    const std::string grid = std::to_string(blocks) + " x " + std::to_string(groups) + " blocks" + split_by;
    return (streamed_ ? "" : grid) + " order=" + std::to_string(plan.seed);
  }
  bool idle_grads_are_zero() const { return streamed_; }

  // Random errors of sums over all units add up in quadrature, those of different steps too: cases.cpp draws w_hh such
  // that a step passes errors on at no more than their size, or in backward sqrt(G * H / K) times that. Each step adds
  // the roundings of what its GEMM reads, and those in A: of G * H sums of products about 1, and of three with x and
  // the biases, up to 4. The standard deviation is 1 / sqrt(3) of the largest rounding; one of millions of values is
  // five of them off.
  double tolerance(const Case& drawn, double largest) const {
    Problem p{};
    p.cell = drawn.cell;
    const double terms = static_cast<double>(p.gates() * drawn.hidden);
    const double recurrent = static_cast<double>(drawn.projection ? drawn.projection : drawn.hidden);
    const double steps = static_cast<double>(std::max<int64_t>(drawn.steps, 1));
    const double roundoff =
        !streamed_ && std::is_same_v<T, float> && math_ == cuda::MathMode::kTensorCores ? kTf32Roundoff : kRoundoff<T>;
    const double factors = roundoff * largest * std::sqrt(terms / recurrent);
    const double sums = kRoundoff<Accumulator> * std::sqrt(terms + 3 * 4 * 4);
    return 5 / std::sqrt(3) * (factors + sums) * std::sqrt(steps);
  }

  int64_t scratch(const Case& drawn, const cuda::Forward<T>& params, const GpuPlan& plan) const {
    return cuda::forward_scratch<T>(drawn.cell, params, plan.plan);
  }
  int64_t scratch(const Case& drawn, const cuda::Backward<T>& params, const GpuPlan& plan) const {
    return cuda::backward_scratch<T>(drawn.cell, params, plan.plan);
  }
  void run(const Case& drawn, const cuda::Forward<T>& params, const GpuPlan& plan) const {
    run_on_gpu(drawn.cell, params, plan,
               [&](const auto* call) { cuda::run_forward(drawn.cell, call, plan.plan, queue()); });
  }
  void run(const Case& drawn, const cuda::Backward<T>& params, const GpuPlan& plan) const {
    run_on_gpu(drawn.cell, params, plan,
               [&](const auto* call) { cuda::run_backward(drawn.cell, call, plan.plan, queue()); });
  }

 private:
  cuda::Queue queue() const { return {nullptr, nullptr, !streamed_}; }

  // Like the ops: kernels that run all steps find the sizes in GPU memory.
  template <class Params, class Run>
  void run_on_gpu(CellKind cell, Params params, const GpuPlan& plan, const Run& run) const {
    emulation::set_seed(plan.seed);
    Steps& steps = params.steps;
    const GpuMemory<int64_t> sizes(steps.steps), offsets(steps.steps);
    if (!streamed_ && steps.sizes) {
      cuda::upload(sizes.data(), steps.sizes, steps.steps, nullptr);
      steps.device_sizes = sizes.data();
    }
    if (!streamed_ && steps.offsets) {
      cuda::upload(offsets.data(), steps.offsets, steps.steps, nullptr);
      steps.device_offsets = offsets.data();
    }
    run(&params);
    if (cuda::gave_up_waiting()) {
      require_nan(params, cell_facts(cell));
      cuda::raise_if_gave_up();
    }
  }

  // Where one block gives up, all do that wait for it, directly or not.
  static void require_nan(const cuda::Forward<T>& params, const CellFacts& facts) {
    require_nan(params.hy, params.dims.batch * params.dims.hidden_size);
    require_nan(params.output + params.steps.offset(0) * params.output_stride, params.dims.hidden_size);
    if (!params.keep || !facts.reads_saved) return;
    require_nan(params.saved + params.steps.offset(0) * params.saved_stride, params.saved_stride);
  }
  static void require_nan(const cuda::Backward<T>& params, const CellFacts&) {
    require_nan(params.grad_h, params.dims.batch * params.dims.hidden_size);
    const int64_t first = params.steps.offset(params.steps.steps - 1) * params.dims.hidden_size;
    require_nan(params.grad_saved + first, params.dims.hidden_size);
  }
  template <class V>
  static void require_nan(const V* values, int64_t count) {
    const bool all =
        std::all_of(values, values + count, [](V value) { return std::isnan(static_cast<double>(value)); });
    if (!all) throw std::runtime_error("a kernel gave up and left numbers");
  }

  const Path path_;
  const cuda::MathMode math_;
  const bool streamed_;
};

}  // namespace fastrnn::test
