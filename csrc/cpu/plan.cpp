#include "plan.h"

#include <omp.h>
#include <unistd.h>

#include "gemm/panels.h"
#include "tuning.h"

namespace fastrnn::cpu {

namespace {

int64_t shared_weight_bytes();
WeightSource choose_weights(const Workload& work);
int64_t choose_input_steps(const Workload& work, const Plan& plan);

}  // namespace

// For the thresholds see tuning.h.
Choice choose_plan(const Workload& work) {
  const int threads = work.threads;
  const auto choice = [&](int count, Split split, const char* reason) {
    Plan plan{count, split, larger(1, kPollMacs / larger(1, work.step_macs)), choose_weights(work), 0};
    plan.input_steps = choose_input_steps(work, plan);
    return Choice{plan, reason};
  };
  if (threads == 1) return choice(1, Split::kNone, "torch.get_num_threads() is 1");
  const int64_t macs = work.steps * work.step_macs;
  const bool worth_a_team = macs >= kWorthATeam, worth_dividing = work.step_macs >= kWorthSplittingUnits;
  if (worth_a_team && work.batch / kRowsPerThread >= threads && work.weight_bytes <= shared_weight_bytes()) {
    return choice(threads, Split::kBatch, "each thread runs its own batch rows");
  }
  const int by_units = static_cast<int>(smaller(threads, work.panels));
  const bool more_by_units = worth_a_team && worth_dividing && by_units > 2;
  if (work.directions == 2 && 2 * macs >= kWorthATeam && work.weight_bytes <= kOwnWeightBytes && !more_by_units) {
    return choice(2, Split::kDirections, "each direction runs on a thread of its own");
  }
  const int by_layers = static_cast<int>(smaller(threads, work.layers));
  const bool dealt_evenly = by_layers > 1 && work.layers % by_layers == 0;
  // A wide input's GEMMs, which torch would parallelise, would keep the first layer's thread busy longer than the
  // others.
  const bool narrow_input = work.input_macs <= kMostInputToStep * work.step_macs;
  if (work.directions == 1 && dealt_evenly && narrow_input && macs >= kWorthAWavefront && !worth_dividing) {
    return choice(by_layers, Split::kLayers, "layers run as a wavefront, each on one thread");
  }
  if (!worth_a_team) return choice(1, Split::kNone, "too little work for a second thread");
  if (work.batch >= threads && work.weight_bytes <= kLightWeightBytes) {
    return choice(threads, Split::kBatch, "each thread runs its own batch rows");
  }
  if (!worth_dividing) return choice(1, Split::kNone, "too little work in a step to divide the hidden units");
  if (by_units == 1) return choice(1, Split::kNone, "too few hidden units to divide");
  return choice(by_units, Split::kUnits, "each thread runs its own hidden units, meeting at every step");
}

GemmPlan choose_gemm_plan(int threads, int64_t rows, int64_t macs, int64_t panels) {
  const bool within_a_team = omp_in_parallel();
  if (threads == 1 || within_a_team || macs < kWorthATeam) return {1, false};
  if (rows / threads >= kWorthPackingTwice) return {threads, true};
  return {static_cast<int>(smaller(threads, panels)), false};
}

namespace {

// Recurrent weights up to this size can be streamed by every thread, so that each may run the whole layer for its own
// batch rows: no more than a core's L2 cache holds.
int64_t shared_weight_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (cache > 0) return smaller(kSharedWeightBytes, cache);  // 0 if unknown
#endif
  return kSharedWeightBytes;
}

WeightSource choose_weights(const Workload& work) {
  if (work.frozen) return WeightSource::kFrozen;
  const bool few = work.weight_bytes < kMoreRowsInPlaceBytes || work.backward;
  const int64_t rows_in_place = few ? kFewRowsInPlace : kMoreRowsInPlace;
  return work.steps * work.batch > rows_in_place ? WeightSource::kPacked : WeightSource::kInPlace;
}

int64_t choose_input_steps(const Workload& work, const Plan& plan) {
  if (work.backward || plan.weights == WeightSource::kInPlace) return 0;
  if (forced_input_steps >= 0) return forced_input_steps;
  const int64_t alone = work.batch < kRowsPerThread ? kAloneInputWeightBytes : kAloneInputWeightBytesOfRows;
  if (work.input_bytes > (plan.threads > 1 ? kTeamInputWeightBytes : alone)) return 0;
  const int64_t rows = plan.split == Split::kBatch ? ceil_div(work.batch, plan.threads) : work.batch;
  return larger(1, smaller(kInputSteps, kInputGateBytes / larger(1, rows * work.gate_bytes)));
}

}  // namespace

}  // namespace fastrnn::cpu
