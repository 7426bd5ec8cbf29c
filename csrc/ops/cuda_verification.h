// A kernel that keeps w_hh on the chip, compared with the streamed path on the GPU that is there: a call of the plan's
// grid and sizes, of a few steps on random numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "../cells/registry.h"
#include "../cuda/common/beside_captures.h"
#include "../cuda/common/comparison.h"
#include "../cuda/common/error.h"
#include "../cuda/run.h"
#include "cuda_verdicts.h"

namespace fastrnn::ops {

// Device is CudaDevice.
template <class T, class Device>
class Verification {
  using A = cuda::Accumulator<T>;
  static constexpr int64_t kSteps = 3;  // every buffer of an exchange is used, and used again

 public:
  Verification(const Device& device, const VerifiedKernel& kernel)
      : device_(device),
        kernel_(kernel),
        facts_(cell_facts(kernel.cell)),
        hidden_(kernel.dims.hidden_size),
        state_(kernel.dims.batch * hidden_),
        rows_(kSteps * kernel.dims.batch) {}

  // What is wrong with the kernel, "" if nothing is. Waits for the GPU.
  std::string fault() {
    const cuda::BesideCaptures beside;
    largest_ = uninitialised<float>(cuda::kDifferences);
    device_.zero(largest_, cuda::kDifferences);
    try {
      kernel_.backward ? run<cuda::Backward<T>>() : run<cuda::Forward<T>>();
    } catch (const cuda::CudaError& error) {  // such as of a launch that the GPU refuses
      return std::string("does not run: ") + error.what();
    }
    const float difference = largest_difference(), allowed = allowed_difference();
    if (cuda::forget_if_gave_up(kernel_.plan.path, kernel_.backward, kernel_.dims, kSteps)) {
      return "waited in vain for a block of its own";
    }
    if (difference <= allowed) return "";
    return "differs from the streamed path by " + std::to_string(difference) + " (" + std::to_string(allowed) +
           " would be rounding)";
  }

 private:
  // Both paths on the same numbers.
  template <class Call>
  void run() {
    const cuda::Plan streamed{Path::kStreamed, {}, {}};
    std::vector<Call> calls, twins;
    for (int64_t i = 0; i < kernel_.plan.grid.calls; ++i) {
      Call call{};
      call.steps = {kSteps, kernel_.dims.batch, nullptr, nullptr, i % 2 == 1};
      call.dims = kernel_.dims;
      calls.push_back(drawn_call(call));
      twins.push_back(twin(calls.back()));
      launch(&twins.back(), streamed);
    }
    launch(calls.data(), kernel_.plan);
    for (size_t i = 0; i < calls.size(); ++i) compare(calls[i], twins[i]);
  }

  cuda::Forward<T> drawn_call(cuda::Forward<T> call) {
    call.saved_stride = (facts_.reads_saved ? facts_.saved_values : facts_.gates) * hidden_;
    call.saved = drawn<T>(rows_ * call.saved_stride);
    call.keep = true;
    call.w_hh = drawn_weights();
    call.b_ih = drawn<T>(facts_.gates * hidden_);
    call.b_hh = drawn<T>(facts_.gates * hidden_);
    T* const hx = drawn<T>(state_);
    call.hx = hx;
    call.hy = copy_of(hx, state_);
    call.output = uninitialised<T>(rows_ * hidden_);
    call.output_stride = hidden_;
    for (int k = 0; k < facts_.cell_states; ++k) {
      call.cell[k] = drawn<A>(state_);
      call.cells[k] = uninitialised<A>(rows_ * hidden_);
    }
    return call;
  }
  cuda::Backward<T> drawn_call(cuda::Backward<T> call) {
    call.saved = drawn<T>(rows_ * facts_.saved_values * hidden_);
    call.w_hh = drawn_weights();
    call.hx = drawn<T>(state_);
    call.output = drawn<T>(rows_ * hidden_);
    call.grad_output = drawn<T>(rows_ * hidden_);
    call.output_stride = call.grad_output_stride = hidden_;
    call.grad_h = drawn<A>(state_);
    for (int k = 0; k < facts_.cell_states; ++k) {
      call.cells[k] = drawn<A>(rows_ * hidden_);
      call.cx[k] = drawn<A>(state_);
      call.grad_cell[k] = drawn<A>(state_);
    }
    call.grad_saved = uninitialised<T>(rows_ * facts_.saved_values * hidden_);
    return call;
  }

  // The same call with memory of its own for what it writes.
  cuda::Forward<T> twin(cuda::Forward<T> call) {
    call.saved = copy_of(call.saved, rows_ * call.saved_stride);
    call.hy = copy_of(call.hy, state_);
    call.output = uninitialised<T>(rows_ * hidden_);
    for (int k = 0; k < facts_.cell_states; ++k) {
      call.cell[k] = copy_of(call.cell[k], state_);
      call.cells[k] = uninitialised<A>(rows_ * hidden_);
    }
    return call;
  }
  cuda::Backward<T> twin(cuda::Backward<T> call) {
    call.grad_h = copy_of(call.grad_h, state_);
    for (int k = 0; k < facts_.cell_states; ++k) call.grad_cell[k] = copy_of(call.grad_cell[k], state_);
    call.grad_saved = uninitialised<T>(rows_ * facts_.saved_values * hidden_);
    return call;
  }

  void launch(cuda::Forward<T>* calls, const cuda::Plan& plan) {
    calls->scratch = uninitialised<T>(cuda::forward_scratch<T>(kernel_.cell, *calls, plan));
    cuda::run_forward(kernel_.cell, calls, plan, device_.queue());
  }
  void launch(cuda::Backward<T>* calls, const cuda::Plan& plan) {
    calls->scratch = uninitialised<T>(cuda::backward_scratch<T>(kernel_.cell, *calls, plan));
    cuda::run_backward(kernel_.cell, calls, plan, device_.queue());
  }

  void compare(const cuda::Forward<T>& actual, const cuda::Forward<T>& expected) const {
    compare(actual.output, expected.output, rows_ * hidden_);
    compare(actual.hy, expected.hy, state_);
    if (facts_.reads_saved) compare(actual.saved, expected.saved, rows_ * actual.saved_stride);
    for (int k = 0; k < facts_.cell_states; ++k) {
      compare(actual.cell[k], expected.cell[k], state_);
      compare(actual.cells[k], expected.cells[k], rows_ * hidden_);
    }
  }
  void compare(const cuda::Backward<T>& actual, const cuda::Backward<T>& expected) const {
    compare(actual.grad_saved, expected.grad_saved, rows_ * facts_.saved_values * hidden_);
    compare(actual.grad_h, expected.grad_h, state_);
    for (int k = 0; k < facts_.cell_states; ++k) compare(actual.grad_cell[k], expected.grad_cell[k], state_);
  }
  template <class V>
  void compare(const V* actual, const V* expected, int64_t count) const {
    cuda::compare(largest_, actual, expected, count, device_.queue().stream);
  }

  float largest_difference() const {
    std::vector<float> all(cuda::kDifferences);
    const cudaStream_t stream = device_.queue().stream;
    cuda::check(cudaMemcpyAsync(all.data(), largest_, all.size() * sizeof(float), cudaMemcpyDeviceToHost, stream));
    cuda::check(cudaStreamSynchronize(stream));
    return *std::max_element(all.begin(), all.end());
  }

  // Many times what the roundings of so few steps come to, and a small part of what any wrong element would be off by.
  float allowed_difference() const {
    if (std::is_same_v<T, __nv_bfloat16>) return 32 * 0x1p-9f;
    return std::is_same_v<T, float> && kernel_.plan.math == cuda::MathMode::kExact ? 0x1p-15f : 32 * 0x1p-12f;
  }

  const T* drawn_weights() {
    return drawn<T>(facts_.gates * hidden_ * hidden_, 1 / std::sqrt(static_cast<float>(hidden_)));
  }
  template <class V>
  V* drawn(int64_t count, float scale = 1) {
    V* const values = uninitialised<V>(count);
    cuda::draw(values, count, ++draws_ << 40, scale, device_.queue().stream);
    return values;
  }
  template <class V>
  V* copy_of(const V* values, int64_t count) {
    V* const copy = uninitialised<V>(count);
    device_.copy(copy, values, count);
    return copy;
  }
  template <class V>
  V* uninitialised(int64_t count) {
    memory_.push_back(device_.empty({count}, scalar_type_of<V>));
    return data<V>(memory_.back());
  }

  const Device& device_;
  const VerifiedKernel& kernel_;
  const CellFacts& facts_;
  const int64_t hidden_, state_, rows_;
  uint64_t draws_ = 0;
  float* largest_ = nullptr;
  std::vector<Tensor> memory_;
};

}  // namespace fastrnn::ops
