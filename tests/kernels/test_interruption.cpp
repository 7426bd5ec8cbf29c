#include "test_interruption.h"

#include <algorithm>

#include "cpu/isa/select.h"
#include "cpu/loop/loops.h"
#include "cpu/team/interrupt.h"
#include "reference.h"

namespace fastrnn::test {

namespace {

// A call that takes seconds, to be interrupted. To be long without being large, its steps alternate between two rows: a
// step reads its neighbour's row while it writes its own.
class LongCall {
 public:
  explicit LongCall(const cpu::CellKernels<float>& cell) : cell_(cell) {
    for (int64_t t = 0; t < kSteps; ++t) offsets_.push_back(t % 2);
    ForwardParams<float>& p = forward.params;
    BackwardParams<float>& q = backward.params;
    p.steps = q.steps = {kSteps, 1, sizes_.data(), offsets_.data(), false};
    p.dims = q.dims = {1, kHidden, kHidden, false};
    p.w_hh = q.w_hh = weights_.data();
    p.hx = q.hx = hx_.data();
    p.saved = q.grad_saved = saved_.data();
    p.output = output_.data();
    q.output = output_.data();
    p.hy = q.grad_h = state_.data();
    p.saved_stride = p.output_stride = q.output_stride = kHidden;
    forward.chunk = backward.chunk = {0, kSteps, 0, 2};
  }

  void make_scratch(const cpu::Plan& plan) {
    const Dims& dims = forward.params.dims;
    scratch_.resize(
        static_cast<size_t>(std::max(cell_.forward_scratch(dims, plan), cell_.backward_scratch(dims, plan))));
    forward.params.scratch = backward.params.scratch = scratch_.data();
  }

  ForwardCall<float> forward{};
  BackwardCall<float> backward{};

 private:
  static constexpr int64_t kSteps = 1000000, kHidden = 64;

  const cpu::CellKernels<float>& cell_;
  const std::vector<int64_t> sizes_ = std::vector<int64_t>(kSteps, 1);
  std::vector<int64_t> offsets_;
  const std::vector<float> weights_ = std::vector<float>(kHidden * kHidden), hx_ = std::vector<float>(kHidden);
  std::vector<float> saved_ = std::vector<float>(2 * kHidden), output_ = saved_, state_ = hx_, scratch_;
};

}  // namespace

void test_interruption(const cpu::Kernels& kernels, Report& report) {
  using cpu::Split;
  const cpu::CellKernels<float>& cell = cpu::cell_kernels<float>(kernels, kRnnTanh);
  LongCall first(cell), second(cell);
  current_call = "an interrupted call";
  cpu::interrupt_requested = [] { return true; };
  constexpr auto kPacked = cpu::WeightSource::kPacked, kInPlace = cpu::WeightSource::kInPlace;
  for (const cpu::Plan& plan : {cpu::Plan{1, Split::kNone, 4, kPacked}, cpu::Plan{3, Split::kBatch, 4, kInPlace},
                                cpu::Plan{3, Split::kUnits, 4, kPacked}, cpu::Plan{2, Split::kDirections, 4, kPacked},
                                cpu::Plan{1, Split::kDirections, 4, kInPlace}}) {
    first.make_scratch(plan);
    second.make_scratch(plan);
    const ForwardCall<float> forward[] = {first.forward, second.forward};
    const BackwardCall<float> backward[] = {first.backward, second.backward};
    const size_t count = plan.split == Split::kDirections ? 2 : 1;
    if (cpu::run_loops<ForwardCall<float>>(cell.forward, plan, {forward, count})) {
      report.fail("forward went on after an interruption");
    }
    if (cpu::run_loops<BackwardCall<float>>(cell.backward, plan, {backward, count})) {
      report.fail("backward went on after an interruption");
    }
  }
  cpu::interrupt_requested = nullptr;
}

}  // namespace fastrnn::test
