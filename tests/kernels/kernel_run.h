// One case on one machine: buffers of exactly the promised sizes, the calls, and the comparison with the reference.
//
// A Machine says on what the kernels run:
//
//   Value, Accumulator          T and A of params.h
//   Drawn                       the type that a problem's numbers are rounded to, so that the kernels lose nothing
//   Memory<V>                   see buffers.h
//   Plan                        one way to run a call
//   kHyHoldsHx                  see ForwardParams::hy
//   name(), describe(plan)
//   idle_grads_are_zero()       backward may read gradients of rows that do not run, which the caller has zeroed
//   tolerance(drawn, largest)   see Output; largest is the magnitude of what the steps' GEMMs read
//   scratch(drawn, params, plan), run(drawn, params, plan)
//                               for either kind of params; run throws what goes wrong
#pragma once

#include <cmath>
#include <exception>
#include <memory>
#include <string>

#include "buffers.h"
#include "cases.h"
#include "cells/registry.h"

namespace fastrnn::test {

// Everything of one call that does not change with the plan.
template <class Machine>
class KernelRun {
 public:
  using T = typename Machine::Value;
  using A = typename Machine::Accumulator;
  template <class V>
  using Memory = typename Machine::template Memory<V>;
  template <class V>
  using Out = Output<V, Machine::template Memory>;

  KernelRun(const Machine& machine, const Case& drawn, const char* pass, Report& report)
      : machine_(machine),
        case_(drawn),
        facts_(cell_facts(drawn.cell)),
        problem_(draw_problem(drawn, &rounded<typename Machine::Drawn>)),
        forward_(run_forward(problem_)),
        pass_(pass),
        report_(report) {}

 protected:
  // Runs each plan after prepare(), which resets the buffers and points params to them.
  template <class Params, class Prepare>
  void run_all(const std::vector<typename Machine::Plan>& plans, Params& params, const Prepare& prepare) {
    for (const typename Machine::Plan& plan : plans) {
      current_call = case_.name() + " " + machine_.name() + " " + pass_ + " " + machine_.describe(plan);
      const Memory<T> scratch(machine_.scratch(case_, params, plan));
      prepare();
      params.scratch = scratch.data();
      try {
        machine_.run(case_, params, plan);
      } catch (const std::exception& error) {
        report_.fail(current_call + ": " + error.what());
        continue;
      }
      for (const auto& out : outputs_) out->check(current_call, report_);
      if (!scratch.margin_intact()) report_.fail(current_call + ": something was written beside scratch");
    }
  }

  Steps steps() {
    const bool packed = case_.shape == Shape::kPacked, padded = case_.shape == Shape::kPadded;
    Steps steps{problem_.steps, problem_.batch, packed || padded ? problem_.sizes.data() : nullptr,
                packed ? problem_.offsets.data() : nullptr, problem_.reverse};
    if (case_.shape == Shape::kDeviceSizes) {
      const auto sizes = std::make_shared<Memory<int64_t>>(problem_.steps);
      std::copy(problem_.sizes.begin(), problem_.sizes.end(), sizes->data());
      inputs_.push_back(sizes);
      steps.device_sizes = sizes->data();
    }
    return steps;
  }
  Dims dims() const {
    return {problem_.batch, problem_.hidden, problem_.recurrent, problem_.projected, problem_.input_size};
  }

  // (N, K) with room for the other direction's columns.
  Layout output_layout() const {
    const int64_t K = problem_.recurrent;
    if (!case_.second_direction) return Layout::plain(problem_.rows, K);
    return {problem_.rows, K, 2 * K, problem_.reverse ? K : 0};
  }

  // Call before making any output.
  void products_read(const Values& values) {
    double largest = 1;
    for (double value : values) largest = std::fmax(largest, std::fabs(value));  // which ignores kNothing
    tolerance_ = machine_.tolerance(case_, largest);
  }

  // Inputs and outputs that stay null where `wanted` is false.
  template <class V = T>
  const V* input(const Values& values, const Layout& layout, bool wanted = true) {
    if (!wanted) return nullptr;
    const auto memory = std::make_shared<Input<V, Machine::template Memory>>(values, layout);
    inputs_.push_back(memory);
    return memory->data() + layout.offset;
  }
  template <class V = T>
  Out<V>* output(const char* name, const Layout& layout, const Values& before, const Values& after,
                 bool wanted = true) {
    if (!wanted) return nullptr;
    auto memory = std::make_unique<Out<V>>(name, layout, before, after, tolerance_);
    Out<V>* const out = memory.get();
    outputs_.push_back(std::move(memory));
    return out;
  }

  const Machine& machine_;
  const Case case_;
  const CellFacts& facts_;
  const Problem problem_;
  const Forward forward_;

 private:
  const char* pass_;
  Report& report_;
  double tolerance_ = 0;
  std::vector<std::shared_ptr<const void>> inputs_;
  std::vector<std::unique_ptr<AnyOutput>> outputs_;
};

// Rounded to what the kernels' arrays hold.
template <class T, class A>
Forward as_kept(Forward forward) {
  for (Values* values : {&forward.output, &forward.saved, &forward.hidden, &forward.h_before}) {
    for (double& value : *values) value = rounded<T>(value);
  }
  for (Values* values : {&forward.cells, &forward.c_before}) {
    for (double& value : *values) value = rounded<A>(value);
  }
  return forward;
}

template <class Out>
auto reset(Out* output) {
  return output ? output->reset() : nullptr;
}

template <class Machine>
class ForwardRun final : public KernelRun<Machine> {
  using Base = KernelRun<Machine>;
  using Base::case_, Base::problem_, Base::forward_, Base::facts_;
  using T = typename Base::T;
  using A = typename Base::A;

 public:
  ForwardRun(const Machine& machine, const Case& drawn, Report& report) : Base(machine, drawn, "forward", report) {
    const Problem& p = problem_;
    const int64_t N = p.rows, B = p.batch, H = p.hidden, K = p.recurrent, columns = p.gates() * H;
    const bool reads_saved = drawn.keep && facts_.reads_saved, has_c = facts_.cell_states > 0;
    params_.steps = this->steps();
    params_.dims = this->dims();
    params_.keep = drawn.keep;
    params_.input = this->input(p.input, Layout::plain(N, p.input_size));
    params_.w_ih = this->input(p.w_ih, Layout::plain(columns, p.input_size));
    params_.w_hh = this->input(p.w_hh, Layout::plain(columns, K));
    params_.w_hr = this->input(p.w_hr, Layout::plain(K, H), p.projected);
    params_.b_ih = this->input(p.b_ih, Layout::plain(1, columns), drawn.biases);
    params_.b_hh = this->input(p.b_hh, Layout::plain(1, columns), drawn.biases);
    params_.hx = this->input(p.hx, Layout::plain(B, K));
    params_.output_stride = this->output_layout().stride;
    params_.saved_stride = reads_saved ? p.saved_values() * H : columns;
    this->products_read(forward_.output);
    saved_ = this->output("saved", Layout::plain(N, params_.saved_stride), widen(p.x, N, columns, params_.saved_stride),
                          reads_saved ? forward_.saved : Values{});
    output_ = this->output("output", this->output_layout(), {}, forward_.output);
    hy_ = this->output("hy", Layout::plain(B, K), Machine::kHyHoldsHx ? p.hx : Values{}, forward_.hy);
    cell_ = this->template output<A>("cell", Layout::plain(B, H), p.cx, forward_.cy, has_c);
    cells_ = this->template output<A>("cells", Layout::plain(N, H), {}, forward_.cells, has_c && drawn.keep);
  }

  void run(const std::vector<typename Machine::Plan>& plans) {
    this->run_all(plans, params_, [&] {
      params_.saved = reset(saved_);
      params_.output = reset(output_);
      params_.hy = reset(hy_);
      params_.cell[0] = reset(cell_);
      params_.cells[0] = reset(cells_);
    });
  }

 private:
  // (rows, from) with columns of kNothing added on the right: (rows, to).
  static Values widen(const Values& values, int64_t rows, int64_t from, int64_t to) {
    Values wide(static_cast<size_t>(rows * to), kNothing);
    for (int64_t i = 0; i < rows * from; ++i) wide[i / from * to + i % from] = values[i];
    return wide;
  }

  ForwardParams<T, A> params_{};
  typename Base::template Out<T>*saved_, *output_, *hy_;
  typename Base::template Out<A>*cell_, *cells_;
};

// Starts from what the reference's forward saved, so that it fails only for faults of its own.
template <class Machine>
class BackwardRun final : public KernelRun<Machine> {
  using Base = KernelRun<Machine>;
  using Base::case_, Base::problem_, Base::forward_, Base::facts_;
  using T = typename Base::T;
  using A = typename Base::A;

 public:
  BackwardRun(const Machine& machine, const Case& drawn, Report& report) : Base(machine, drawn, "backward", report) {
    const Problem& p = problem_;
    const int64_t N = p.rows, B = p.batch, H = p.hidden, K = p.recurrent, C = p.saved_values();
    const bool has_c = facts_.cell_states > 0;
    const Forward kept = as_kept<T, A>(forward_);
    const Backward after = run_backward(p, kept);
    params_.steps = this->steps();
    params_.dims = this->dims();
    params_.saved = this->input(kept.saved, Layout::plain(N, C * H), facts_.reads_saved);
    params_.cells[0] = this->template input<A>(kept.cells, Layout::plain(N, H), has_c);
    params_.w_hh = this->input(p.w_hh, Layout::plain(p.gates() * H, K));
    params_.w_hr = this->input(p.w_hr, Layout::plain(K, H), p.projected);
    params_.hx = this->input(p.hx, Layout::plain(B, K));
    params_.cx[0] = this->template input<A>(p.cx, Layout::plain(B, H), has_c);
    params_.output = this->input(kept.output, this->output_layout());
    params_.output_stride = this->output_layout().stride;
    params_.grad_output = this->input(p.grad_output, this->output_layout(), drawn.grad_output);
    params_.grad_output_stride = this->output_layout().stride;
    const bool zeros = machine.idle_grads_are_zero() && drawn.shape == Shape::kDeviceSizes;
    this->products_read(after.grad_saved);
    grad_h_ = this->template output<A>("grad_h", Layout::plain(B, K), p.grad_hy, after.grad_hx);
    grad_c_ = this->template output<A>("grad_c", Layout::plain(B, H), p.grad_cy, after.grad_cx, has_c);
    grad_saved_ = this->output("grad_saved", Layout::plain(N, C * H), zero_if(zeros, N * C * H), after.grad_saved);
    grad_projected_ =
        this->output("grad_projected", Layout::plain(N, K), zero_if(zeros, N * K), after.grad_projected, p.projected);
    hidden_ = this->output("hidden", Layout::plain(N, H), {}, forward_.hidden, p.projected);
  }

  void run(const std::vector<typename Machine::Plan>& plans) {
    this->run_all(plans, params_, [&] {
      params_.grad_h = reset(grad_h_);
      params_.grad_cell[0] = reset(grad_c_);
      params_.grad_saved = reset(grad_saved_);
      params_.grad_projected = reset(grad_projected_);
      params_.operand = reset(hidden_);
    });
  }

 private:
  static Values zero_if(bool wanted, int64_t count) { return Values(wanted ? static_cast<size_t>(count) : 0); }

  BackwardParams<T, A> params_{};
  typename Base::template Out<A>*grad_h_, *grad_c_;
  typename Base::template Out<T>*grad_saved_, *grad_projected_, *hidden_;
};

}  // namespace fastrnn::test
