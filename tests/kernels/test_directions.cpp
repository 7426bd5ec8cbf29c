#include "test_directions.h"

#include <random>
#include <vector>

#include "cells/registry.h"
#include "cpu/loop/loops.h"
#include "reference.h"

namespace fastrnn::test {

namespace {

// A packed batch, its steps cut into two chunks.
const std::vector<int64_t> kSizes{5, 5, 4, 2, 2, 1};
const std::vector<int64_t> kOffsets{0, 5, 10, 14, 16, 18};
constexpr int64_t kBatch = 5, kSteps = 6, kRows = 19, kCut = 2, kRowsBeforeCut = 10;

// The i-th chunk of a direction, in the order in which it runs them.
Chunk nth_chunk(bool reverse, int i) {
  if ((i == 0) != reverse) {
    return {reverse ? kSteps - kCut : 0, reverse ? kSteps : kCut, 0, kRowsBeforeCut};
  }
  return {reverse ? 0 : kCut, reverse ? kSteps - kCut : kSteps, kRowsBeforeCut, kRows};
}

// A layer of two directions, with all its memory.
template <class T>
class Layer {
 public:
  Layer(const cpu::Kernels& kernels, CellKind cell, const Dims& dims, cpu::WeightSource weights, uint64_t seed)
      : kernels_(cpu::cell_kernels<T>(kernels, cell)),
        facts_(cell_facts(cell)),
        dims_(dims),
        weights_(weights),
        seed_(seed) {
    T* const output = take(2 * kRows * dims.recurrent_size);
    T* const grad_output = take(2 * kRows * dims.recurrent_size);
    for (int d = 0; d < 2; ++d) make_direction(d == 1, output, grad_output);
  }

  // Forward, then backward, on all directions at once or one after the other. False if interrupted.
  bool run(const cpu::Plan& plan) {
    if (plan.split == cpu::Split::kDirections) return run(plan, 0, 2);
    return run(plan, 0, 1) && run(plan, 1, 1);
  }

  // Everything that the kernels have read or written.
  const std::vector<std::vector<T>>& memory() const { return memory_; }

 private:
  T* take(int64_t count) {
    std::vector<T>& values = memory_.emplace_back(static_cast<size_t>(count));
    std::mt19937_64 random(seed_ + memory_.size());
    for (T& value : values) value = std::uniform_real_distribution<T>(-1, 1)(random);
    return values.data();
  }

  void make_direction(bool reverse, T* output, T* grad_output) {
    const int64_t H = dims_.hidden_size, K = dims_.recurrent_size, column = reverse ? K : 0;
    ForwardParams<T>& forward = forward_.emplace_back().params;
    BackwardParams<T>& backward = backward_.emplace_back().params;
    forward.steps = backward.steps = {kSteps, kBatch, kSizes.data(), kOffsets.data(), reverse};
    forward.dims = backward.dims = dims_;
    forward.keep = true;
    forward.saved_stride = facts_.saved_values * H;
    backward.saved = forward.saved = take(kRows * forward.saved_stride);
    backward.w_hh = forward.w_hh = take(facts_.gates * H * K);
    backward.w_hr = forward.w_hr = dims_.projected ? take(K * H) : nullptr;
    forward.b_ih = take(facts_.gates * H);
    forward.b_hh = take(facts_.gates * H);
    backward.hx = forward.hx = take(kBatch * K);
    backward.output = forward.output = output + column;
    backward.output_stride = forward.output_stride = backward.grad_output_stride = 2 * K;
    forward.hy = take(kBatch * K);
    forward.cell[0] = take(kBatch * H);
    backward.cells[0] = forward.cells[0] = take(kRows * H);
    backward.cx[0] = take(kBatch * H);
    backward.grad_output = grad_output + column;
    backward.grad_h = take(kBatch * K);
    backward.grad_cell[0] = take(kBatch * H);
    backward.grad_saved = take(kRows * facts_.saved_values * H);
    backward.grad_projected = dims_.projected ? take(kRows * K) : nullptr;
    backward.operand = dims_.projected ? take(kRows * H) : nullptr;
    const cpu::Plan plan{1, cpu::Split::kNone, 1, weights_};
    forward.scratch = take(kernels_.forward_scratch(dims_, plan));
    backward.scratch = take(kernels_.backward_scratch(dims_, plan));
  }

  bool run(const cpu::Plan& plan, size_t first, size_t count) {
    const int64_t columns = facts_.saved_values * dims_.hidden_size;
    std::vector<ForwardCall<T>> forward;
    std::vector<BackwardCall<T>> backward;
    for (int i = 0; i < 2; ++i) {
      forward.assign(forward_.begin() + first, forward_.begin() + first + count);
      for (auto& [params, chunk] : forward) {
        chunk = nth_chunk(params.steps.reverse, i);
        params.saved += chunk.first_row * columns;
      }
      if (!cpu::run_loops<ForwardCall<T>>(kernels_.forward, plan, forward)) return false;
    }
    for (int i = 2; i-- > 0;) {
      backward.assign(backward_.begin() + first, backward_.begin() + first + count);
      for (auto& [params, chunk, after] : backward) {
        chunk = nth_chunk(params.steps.reverse, i);
        if (i == 0) after = params.grad_saved + params.steps.offset(chunk.end) * columns;
        params.grad_saved += chunk.first_row * columns;
      }
      if (!cpu::run_loops<BackwardCall<T>>(kernels_.backward, plan, backward)) return false;
    }
    return true;
  }

  const cpu::CellKernels<T>& kernels_;
  const CellFacts& facts_;
  const Dims dims_;
  const cpu::WeightSource weights_;
  const uint64_t seed_;
  std::vector<std::vector<T>> memory_;
  std::vector<ForwardCall<T>> forward_;
  std::vector<BackwardCall<T>> backward_;
};

template <class T>
void test_layer(const cpu::Kernels& kernels, CellKind cell, const Dims& dims, cpu::WeightSource weights, uint64_t seed,
                Report& report) {
  Layer<T> expected(kernels, cell, dims, weights, seed);
  expected.run({1, cpu::Split::kNone, 1, weights});
  for (int threads : {2, 1}) {  // one, as if OpenMP granted no more
    current_call = "both directions of cell " + std::to_string(static_cast<int>(cell)) + " with " +
                   std::to_string(dims.hidden_size) + " units on " + std::to_string(threads) + " threads";
    Layer<T> layer(kernels, cell, dims, weights, seed);
    if (!layer.run({threads, cpu::Split::kDirections, 1, weights}))
      report.fail(current_call + ": interrupted, by nobody");
    if (layer.memory() != expected.memory()) report.fail(current_call + ": the bits differ from those of one by one");
  }
}

}  // namespace

void test_directions(const cpu::Kernels& kernels, uint64_t seed, Report& report) {
  for (CellKind cell : {kRnnTanh, kRnnRelu, kLstm, kGru}) {
    for (int64_t hidden : {3, 17, 64}) {
      for (cpu::WeightSource weights : {cpu::WeightSource::kPacked, cpu::WeightSource::kInPlace}) {
        const Dims dims{kBatch, hidden, hidden, false}, projected{kBatch, hidden, hidden / 2, true};
        test_layer<float>(kernels, cell, dims, weights, seed, report);
        test_layer<double>(kernels, cell, dims, weights, seed, report);
        if (cell == kLstm) test_layer<float>(kernels, cell, projected, weights, seed, report);
      }
    }
  }
}

}  // namespace fastrnn::test
