#include "plan.h"

#include <omp.h>
#include <unistd.h>

#include "gemm/panels.h"
#include "isa/select.h"
#include "team/cores.h"
#include "tuning.h"

namespace fastrnn::cpu {

namespace {

int64_t shared_weight_bytes();
WeightSource choose_weights(const Workload& work);
int64_t choose_input_steps(const Workload& work, const Plan& plan);
bool is_better_transposed(const GemmShape& shape);
bool is_multiplied_by_panels(const GemmShape& shape, int64_t macs);
GemmPlan divide_gemm(const GemmShape& shape, int64_t threads);

}  // namespace

// For the thresholds see tuning.h.
Choice choose_plan(const Workload& work) {
  const int threads = work.threads;
  const auto choice = [&](int count, Split split, Reason reason) {
    Plan plan{count, split, larger(1, kPollMacs / larger(1, work.step_macs)), choose_weights(work), 0};
    plan.input_steps = choose_input_steps(work, plan);
    return Choice{plan, reason};
  };
  if (threads == 1) return choice(1, Split::kNone, Reason::kOneThread);
  const int64_t macs = work.steps * work.step_macs;
  const bool worth_a_team = macs >= kWorthATeam;
  const bool worth_dividing = work.step_macs >= kWorthSplittingUnits || !work.waits;
  if (worth_a_team && work.batch / kRowsPerThread >= threads && work.weight_bytes <= shared_weight_bytes()) {
    return choice(threads, Split::kBatch, Reason::kOwnRows);
  }
  const int by_units = static_cast<int>(smaller(threads, work.panels));
  const bool more_by_units = worth_a_team && worth_dividing && by_units > 2;
  if (work.directions == 2 && 2 * macs >= kWorthATeam && work.weight_bytes <= kOwnWeightBytes && !more_by_units) {
    return choice(2, Split::kDirections, Reason::kOwnDirection);
  }
  const int by_layers = static_cast<int>(smaller(threads, work.layers));
  const bool dealt_evenly = by_layers > 1 && work.layers % by_layers == 0;
  // A wide input's GEMMs, which torch would parallelise, would keep the first layer's thread busy longer than the
  // others.
  const bool narrow_input = work.input_macs <= kMostInputToStep * work.step_macs;
  if (work.directions == 1 && dealt_evenly && narrow_input && macs >= kWorthAWavefront && !worth_dividing) {
    return choice(by_layers, Split::kLayers, Reason::kOwnLayers);
  }
  if (!worth_a_team) return choice(1, Split::kNone, Reason::kTooLittleWork);
  if (work.batch >= threads && work.weight_bytes <= kLightWeightBytes) {
    return choice(threads, Split::kBatch, Reason::kOwnRows);
  }
  if (!worth_dividing) return choice(1, Split::kNone, Reason::kTooLittleWorkPerStep);
  if (by_units == 1) return choice(1, Split::kNone, Reason::kTooFewUnits);
  return choice(by_units, Split::kUnits, Reason::kOwnUnits);
}

GemmPlan choose_gemm_plan(const GemmShape& shape) {
  const int64_t macs = shape.rows * shape.columns * shape.depth;
  if (shape.reads_rows && shape.rows <= kFewGemmRows) return {GemmCode::kRows, 1, false};
  if (macs <= kTinyGemm && !shape.narrow_weights) return {GemmCode::kPlainLoop, 1, false};
  if (is_better_transposed(shape)) return {GemmCode::kTransposed, 1, false};
  if (!is_multiplied_by_panels(shape, macs)) return {GemmCode::kTorch, 0, false};
  const bool within_a_team = omp_in_parallel();
  if (within_a_team || macs <= kSmallGemm) return {GemmCode::kPanels, 1, false};
  return divide_gemm(shape, smaller(shape.threads, usable_cores()));
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
  if (work.backward || !work.input_in_loop || plan.weights == WeightSource::kInPlace) return 0;
  const int64_t rows = plan.split == Split::kBatch ? ceil_div(work.batch, plan.threads) : work.batch;
  const int64_t steps = larger(1, smaller(kInputSteps, kInputGateBytes / larger(1, rows * work.gate_bytes)));
  if (work.input_frozen) return steps;
  if (forced_input_steps >= 0) return forced_input_steps;
  const int64_t alone = work.batch < kRowsPerThread ? kAloneInputWeightBytes : kAloneInputWeightBytesOfRows;
  return work.input_bytes > (plan.threads > 1 ? kTeamInputWeightBytes : alone) ? 0 : steps;
}

// A narrow result leaves most of a panel's columns empty. Whether its transpose is worth more depends on which operand
// then has to be transposed as it is packed.
bool is_better_transposed(const GemmShape& shape) {
  if (shape.narrow_weights || shape.columns >= shape.rows) return false;
  const int64_t lanes = kernels().vector_bytes / shape.element_size;
  return shape.columns < (shape.by_columns ? kNarrowGemm : lanes / 2);
}

// Always on AMD's processors. MKL, torch's GEMM, runs its AVX2 code on those that have AVX-512; elsewhere it is as fast
// where the GEMM is large, the result wide, and the weights, all of which it packs before it multiplies, fit the cache.
bool is_multiplied_by_panels(const GemmShape& shape, int64_t macs) {
  if (shape.narrow_weights) return true;
  if (forced_gemm_code) return *forced_gemm_code == GemmCode::kPanels;
  if (macs <= kSmallGemm || smaller(shape.rows, shape.columns) < kNarrowGemm) return true;
  const int vector_bytes = kernels().vector_bytes;
  if (is_amd() && vector_bytes >= 32) return true;
  return shape.weight_bytes >= kPanelGemmWeightBytes && (vector_bytes == 32 || shape.rows <= kPanelGemmRows);
}

// By rows, every thread packs all of b; by columns, whole panels at a time, every thread transposes all of an `a` that
// needs it.
GemmPlan divide_gemm(const GemmShape& shape, int64_t threads) {
  const int64_t width = kMaxPanelVectors * kernels().vector_bytes / shape.element_size;
  const int64_t panels = ceil_div(shape.columns, width), by_panels = smaller(threads, panels);
  const int64_t most_columns = smaller(ceil_div(panels, by_panels) * width, shape.columns);
  const int64_t packing = shape.by_columns ? 0 : kPackingRows;
  const bool by_rows =
      (ceil_div(shape.rows, threads) + packing) * shape.columns <= (shape.rows + packing) * most_columns;
  return {GemmCode::kPanels, static_cast<int>(by_rows ? smaller(threads, shape.rows) : by_panels), by_rows};
}

}  // namespace

}  // namespace fastrnn::cpu
