// One pass of the time loop alone, with its recurrent weights packed first or read in place. For packing.py.
#include <algorithm>
#include <memory>
#include <vector>

#include "cells/facts.h"
#include "cpu/isa/instantiate.h"
#include "cpu/loop/loops.h"
#include "cpu/team/team.cpp"

namespace {

using namespace fastrnn;

constexpr cpu::Kernels kKernels = cpu::instantiate<cpu::Isa>();

struct Pass {
  ForwardParams<float> forward{};
  BackwardParams<float> backward{};
  std::vector<std::vector<float>> memory;

  float* take(int64_t values) { return memory.emplace_back(static_cast<size_t>(values), 0.01f).data(); }
};

cpu::Plan plan(bool pack) {
  return {1, cpu::Split::kNone, 1 << 20, pack ? cpu::WeightSource::kPacked : cpu::WeightSource::kInPlace};
}

}  // namespace

extern "C" Pass* packing_make(int cell, int64_t steps, int64_t batch, int64_t hidden) {
  const CellFacts& facts = cell_facts(static_cast<CellKind>(cell));
  const auto& kernels = cpu::cell_kernels<float>(kKernels, static_cast<CellKind>(cell));
  const Dims dims{batch, hidden, hidden, false};
  const int64_t rows = steps * batch, state = batch * hidden;
  auto pass = std::make_unique<Pass>();
  const auto take = [&](int64_t values) { return pass->take(values); };
  ForwardParams<float>& forward = pass->forward;
  forward.steps = {steps, batch, nullptr, nullptr, false};
  forward.dims = dims;
  forward.saved_stride = facts.saved_values * hidden;
  forward.saved = take(rows * forward.saved_stride);
  forward.w_hh = take(facts.gates * hidden * hidden);
  forward.hx = take(state);
  forward.output = take(rows * hidden);
  forward.output_stride = hidden;
  forward.hy = take(state);
  forward.cell[0] = take(state);
  forward.scratch =
      take(std::max(kernels.forward_scratch(dims, plan(true)), kernels.backward_scratch(dims, plan(true))));
  BackwardParams<float>& backward = pass->backward;
  backward.steps = forward.steps;
  backward.dims = dims;
  backward.saved = forward.saved;
  backward.cells[0] = take(rows * hidden);
  backward.w_hh = forward.w_hh;
  backward.hx = backward.cx[0] = forward.hx;
  backward.output = forward.output;
  backward.output_stride = hidden;
  backward.grad_h = take(state);
  backward.grad_cell[0] = take(state);
  backward.grad_saved = take(rows * facts.saved_values * hidden);
  backward.scratch = forward.scratch;
  return pass.release();
}

extern "C" void packing_run(Pass* pass, int cell, bool backward, bool pack) {
  const auto& kernels = cpu::cell_kernels<float>(kKernels, static_cast<CellKind>(cell));
  const Steps& steps = pass->forward.steps;
  const Chunk whole{0, steps.steps, 0, steps.steps * steps.batch};
  if (backward) {
    const BackwardCall<float> call{pass->backward, whole, nullptr};
    cpu::run_loops<BackwardCall<float>>(kernels.backward, plan(pack), {&call, 1});
  } else {
    const ForwardCall<float> call{pass->forward, whole};
    cpu::run_loops<ForwardCall<float>>(kernels.forward, plan(pack), {&call, 1});
  }
}

extern "C" void packing_free(Pass* pass) { delete pass; }
