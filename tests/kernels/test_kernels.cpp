// Runs every kernel of one instruction set (FASTRNN_ISA, or the machine's best) on every case.
//
//   test_kernels [--seed N] [--every N] [--teams]
//
// --every N takes about one case in N; --teams leaves the plans of one thread out.
#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "cpu/isa/select.h"
#include "cpu/loop/loops.h"
#include "cpu/plan.h"
#include "guarded.h"
#include "kernel_run.h"
#include "test_directions.h"
#include "test_gemm.h"
#include "test_interruption.h"
#include "test_reference.h"
#include "test_wavefront.h"

#pragma weak __sanitizer_set_death_callback  // null if no sanitizer is linked

namespace fastrnn::test {

namespace {

struct Options {
  uint64_t seed = 0;
  uint64_t every = 1;
  bool teams = false;
};

// Around the vectors' lanes (2 to 16), the panels' units (up to four vectors) and the tiles' rows (up to 8).
const Coverage kCoverage{{Shape::kDense, Shape::kPacked, Shape::kPadded},
                         {1, 3, 7, 8, 15, 16, 17, 33, 64, 65},
                         {1, 2, 5, 6, 7, 13},
                         {1, 2, 5},
                         true,
                         true};

template <class Call>
void run_one(void (*loop)(const Call&, const cpu::WorkSlice&), const cpu::Plan& plan, const Call& call) {
  if (!cpu::run_loops<Call>(loop, plan, {&call, 1})) throw std::runtime_error("interrupted, by nobody");
}

// The kernels of one instruction set, on threads.
template <class T>
struct Cpu {
  using Value = T;
  using Drawn = T;
  using Accumulator = T;
  template <class V>
  using Memory = Guarded<V>;
  using Plan = cpu::Plan;
  static constexpr bool kHyHoldsHx = false;

  const cpu::Kernels& kernels;

  std::string name() const { return sizeof(T) == 4 ? "f32" : "f64"; }
  std::string describe(const Plan& plan) const {
    const char* split = plan.split == cpu::Split::kBatch   ? "batch"
                        : plan.split == cpu::Split::kUnits ? "units"
                                                           : "none";
    const char* names[] = {"in place", "packed", "frozen"};
    return "threads=" + std::to_string(plan.threads) + " split=" + split + " " + names[static_cast<int>(plan.weights)] +
           " input_steps=" + std::to_string(plan.input_steps);
  }
  bool idle_grads_are_zero() const { return false; }
  // Ten times what the sums of up to 260 products and the activations' two ulps come to.
  double tolerance(const Case&, double) const { return sizeof(T) == 4 ? 2e-5 : 4e-14; }

  int64_t scratch(const Case& drawn, const ForwardParams<T>& params, const Plan& plan) const {
    return cell(drawn).forward_scratch(params.dims, plan);
  }
  int64_t scratch(const Case& drawn, const BackwardParams<T>& params, const Plan& plan) const {
    return cell(drawn).backward_scratch(params.dims, plan);
  }
  void run(const Case& drawn, const ForwardParams<T>& params, const Plan& plan) const {
    const Frozen frozen(cell(drawn), params, plan);
    T* const saved = saved_of(drawn, params, plan);
    for (const Chunk& chunk : two_chunks(drawn, params.steps)) {
      ForwardCall<T> call{params, chunk};
      call.params.frozen = frozen.values.data();
      call.params.saved = saved ? saved + chunk.first_row * params.saved_stride : nullptr;
      run_one(cell(drawn).forward, plan, call);
    }
  }
  void run(const Case& drawn, const BackwardParams<T>& params, const Plan& plan) const {
    const int64_t columns = cell_facts(drawn.cell).saved_values * params.dims.hidden_size;
    const std::vector<Chunk> chunks = two_chunks(drawn, params.steps);
    const T* after = nullptr;
    for (size_t i = chunks.size(); i-- > 0;) {
      BackwardCall<T> call{params, chunks[i], after};
      call.params.grad_saved += chunks[i].first_row * columns;
      run_one(cell(drawn).backward, plan, call);
      after = params.grad_saved + params.steps.offset(chunks[i].begin) * columns;
    }
  }

 protected:
  // If the time loop multiplies the input, x W_ih^T is not there yet.
  static T* saved_of(const Case& drawn, const ForwardParams<T>& params, const Plan& plan) {
    if (plan.input_steps == 0) return params.saved;
    if (!drawn.keep || !cell_facts(drawn.cell).reads_saved) return nullptr;
    std::fill_n(params.saved, all_rows(params.steps) * params.saved_stride, poison<T>());
    return params.saved;
  }

  // The result of freeze() on a call's weights, if its plan wants them frozen.
  struct Frozen {
    Guarded<T> values;

    template <class Kernels, class W>
    Frozen(const Kernels& kernels, const ForwardParams<T, T, W>& params, const Plan& plan)
        : values(is_wanted(plan) ? kernels.frozen_size(params.dims) : 0) {
      if (is_wanted(plan)) kernels.freeze(params, values.data());
    }
    static bool is_wanted(const Plan& plan) { return plan.weights == cpu::WeightSource::kFrozen; }
  };

 private:
  static int64_t rows_before(const Steps& steps, int64_t end) {
    int64_t rows = 0;
    for (int64_t s = 0; s < end; ++s) rows += steps.stored_rows(s);
    return rows;
  }
  static int64_t all_rows(const Steps& steps) { return rows_before(steps, steps.steps); }

  // All steps in one chunk, or cut somewhere, depending on the case's seed.
  static std::vector<Chunk> two_chunks(const Case& drawn, const Steps& steps) {
    const int64_t total = all_rows(steps);
    const auto chunk = [&](int64_t begin, int64_t end) {
      const int64_t first = rows_before(steps, begin), last = rows_before(steps, end);
      return steps.reverse ? Chunk{begin, end, total - last, total - first} : Chunk{begin, end, first, last};
    };
    const int64_t cut = static_cast<int64_t>(drawn.seed / 3 % static_cast<uint64_t>(steps.steps + 1));
    if (cut == 0 || cut == steps.steps) return {chunk(0, steps.steps)};
    return {chunk(0, cut), chunk(cut, steps.steps)};
  }

  const cpu::CellKernels<T>& cell(const Case& drawn) const { return cpu::cell_kernels<T>(kernels, drawn.cell); }
};

// A number that 8-bit integers stand for whose scale is kScale.
struct OfInt8 {
  static constexpr float kScale = 1.0f / 64;
  double value;

  explicit OfInt8(double exact) : value(std::clamp(std::nearbyint(exact / kScale), -127.0, 127.0) * kScale) {}
  operator double() const { return value; }
};

// The same with weights stored as W, for inference.
template <class W>
struct CpuOn : Cpu<float> {
  static constexpr bool kScales = cpu::kHasScales<W>;
  using Drawn = std::conditional_t<kScales, OfInt8, W>;

  // Integers are multiplied by 16 bits of each row: of 65 products, half a unit each is some 1e-4 of the largest
  // factor, and a few steps hand it on.
  double tolerance(const Case& drawn, double largest) const {
    return kScales ? 5e-4 * largest : Cpu<float>::tolerance(drawn, largest);
  }
  std::string name() const { return kScales ? "f32 on int8 weights" : "f32 on bf16 weights"; }
  int64_t scratch(const Case& drawn, const ForwardParams<float>& params, const Plan& plan) const {
    return cell(drawn).forward_scratch(dims_of(params, plan), plan);
  }
  // Integers are read only if they were packed ahead, and then the time loop multiplies the input.
  std::vector<Plan> plans(std::vector<Plan> all) const {
    if constexpr (kScales) {
      for (Plan& plan : all) {
        plan.weights = cpu::WeightSource::kFrozen;
        plan.input_steps = std::max<int64_t>(plan.input_steps, 1);
      }
    }
    return all;
  }
  void run(const Case& drawn, const ForwardParams<float>& p, const Plan& plan) const {
    const int64_t gate_rows = cell_facts(drawn.cell).gates * p.dims.hidden_size, recurrent = p.dims.recurrent_size;
    const Guarded<W> w_ih(gate_rows * p.dims.input_size), w_hh(gate_rows * recurrent),
        w_hr(p.w_hr ? recurrent * p.dims.hidden_size : 0);
    const Guarded<float> scales(std::max(gate_rows, recurrent));
    std::fill_n(scales.data(), scales.size(), OfInt8::kScale);
    std::transform(p.w_ih, p.w_ih + w_ih.size(), w_ih.data(), &stored);
    std::transform(p.w_hh, p.w_hh + w_hh.size(), w_hh.data(), &stored);
    std::transform(p.w_hr, p.w_hr + w_hr.size(), w_hr.data(), &stored);
    ForwardParams<float, float, W> narrow{};
    narrow.steps = p.steps;
    narrow.dims = dims_of(p, plan);
    narrow.scales_ih = narrow.scales_hh = narrow.scales_hr = scales.data();
    narrow.input = p.input;
    narrow.w_ih = w_ih.data();
    narrow.saved = saved_of(drawn, p, plan);
    narrow.saved_stride = p.saved_stride;
    narrow.keep = p.keep;
    narrow.w_hh = w_hh.data();
    narrow.w_hr = w_hr.data();
    narrow.b_ih = p.b_ih;
    narrow.b_hh = p.b_hh;
    narrow.hx = p.hx;
    narrow.output = p.output;
    narrow.output_stride = p.output_stride;
    narrow.hy = p.hy;
    narrow.cell = p.cell;
    narrow.cells = p.cells;
    narrow.scratch = p.scratch;
    const Frozen frozen(cell(drawn), narrow, plan);
    narrow.frozen = frozen.values.data();
    if (Frozen::is_wanted(plan)) narrow.w_hh = narrow.w_hr = nullptr;
    if (narrow.dims.input_frozen) narrow.w_ih = nullptr;
    run_one(cell(drawn).forward, plan, {narrow, {0, p.steps.steps, 0, 0}});
  }

 private:
  static W stored(float value) {
    if constexpr (kScales) {
      return W(static_cast<int>(value / OfInt8::kScale));
    } else {
      return W(value);
    }
  }
  static Dims dims_of(const ForwardParams<float>& params, const Plan& plan) {
    Dims dims = params.dims;
    dims.input_frozen = Frozen::is_wanted(plan) && plan.input_steps > 0;
    return dims;
  }
  const cpu::ForwardKernels<float, W>& cell(const Case& drawn) const {
    return cpu::cell_kernels<float, W>(kernels, drawn.cell);
  }
};

// A team of two and one of three, alternately splitting the batch and the units; and alternately all with packed
// weights (in forward also with frozen ones) or all with weights read in place, which sum in another order. In forward
// some multiply the input, too.
std::vector<cpu::Plan> plans(const Options& options, uint64_t turn, bool backward) {
  using cpu::Split, cpu::WeightSource;
  const int64_t poll_every = static_cast<int64_t>(turn % 3) + 1;
  const bool swapped = turn % 2 == 1;
  const WeightSource source = turn / 2 % 2 == 1 ? WeightSource::kPacked : WeightSource::kInPlace;
  const bool freeze = source == WeightSource::kPacked && !backward;
  const auto input_steps = [&](uint64_t plan) { return static_cast<int64_t>(backward ? 0 : (turn / 4 + plan) % 4); };
  std::vector<cpu::Plan> plans{{2, swapped ? Split::kUnits : Split::kBatch, poll_every, source, input_steps(0)},
                               {3, swapped ? Split::kBatch : Split::kUnits, poll_every,
                                freeze ? WeightSource::kFrozen : source, input_steps(1)}};
  if (!options.teams) plans.insert(plans.begin(), {1, Split::kNone, poll_every, source, input_steps(2)});
  return plans;
}

void test_facts(Report& report) {
  for (CellKind cell : {kRnnTanh, kRnnRelu, kLstm, kGru}) {
    const CellFacts& facts = cell_facts(cell);
    Problem p{};
    p.cell = cell;
    bool right = facts.gates == p.gates() && facts.saved_values == p.saved_values() &&
                 facts.cell_states == (cell == kLstm) && facts.reads_saved == (cell == kLstm || cell == kGru);
    for (int gate = 0; gate < facts.gates; ++gate) {
      right = right && facts.recurrent_slot[gate] == p.recurrent_slot(gate);
    }
    if (!right) report.fail("the facts of cell " + std::to_string(static_cast<int>(cell)) + " are wrong");
  }
}

template <class T>
size_t test_cases(const cpu::Kernels& kernels, const Options& options, Report& report) {
  const Cpu<T> machine{kernels};
  size_t run = 0;
  for (const Case& drawn : all_cases(kCoverage, options.seed)) {
    if (drawn.seed % options.every != 0) continue;
    if (report.enough()) break;
    const uint64_t turn = drawn.seed / options.every;
    ForwardRun(machine, drawn, report).run(plans(options, turn, false));
    if constexpr (sizeof(T) == 4) {
      if (!drawn.keep) {
        const auto all = plans(options, turn, false);
        const CpuOn<cpu::Bf16> on_bf16{machine};
        ForwardRun(on_bf16, drawn, report).run(on_bf16.plans(all));
        const CpuOn<cpu::Int8> on_int8{machine};
        ForwardRun(on_int8, drawn, report).run(on_int8.plans(all));
      }
    }
    BackwardRun(machine, drawn, report).run(plans(options, turn + 1, true));
    ++run;
  }
  return run;
}

void name_the_call() { std::fprintf(stderr, "during %s\n", current_call.c_str()); }

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--teams") {
      options.teams = true;
    } else if (word == "--seed" && i + 1 < count) {
      options.seed = std::strtoull(words[++i], nullptr, 10);
    } else if (word == "--every" && i + 1 < count) {
      options.every = std::max(std::strtoull(words[++i], nullptr, 10), 1ull);
    } else {
      std::fprintf(stderr, "usage: test_kernels [--seed N] [--every N] [--teams]\n");
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

}  // namespace fastrnn::test

int main(int count, char** words) {
  using namespace fastrnn::test;
  const Options options = parse(count, words);
  if (__sanitizer_set_death_callback) {
    __sanitizer_set_death_callback(name_the_call);
  } else {
    std::signal(SIGSEGV, [](int) {
      name_the_call();
      std::_Exit(1);
    });
  }
  const fastrnn::cpu::Kernels& kernels = fastrnn::cpu::kernels();
  Report report;
  test_reference(report);
  test_facts(report);
  test_directions(kernels, options.seed, report);
  test_wavefront(report);
  test_gemm(kernels, options.seed, report);
  size_t cases = test_cases<float>(kernels, options, report);
  std::printf("%s f32: largest error %.2f of the bound\n", kernels.isa, report.largest_error());
  Report f64_report;
  cases += test_cases<double>(kernels, options, f64_report);
  std::printf("%s f64: largest error %.2f of the bound\n", kernels.isa, f64_report.largest_error());
  test_interruption(kernels, report);
  const int failures = report.failures() + f64_report.failures();
  std::printf("%s: %zu cases, %d failures\n", kernels.isa, cases, failures);
  return failures > 0;
}
