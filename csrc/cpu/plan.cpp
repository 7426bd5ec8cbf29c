#include "plan.h"

#include <omp.h>
#include <unistd.h>

#include "gemm/panels.h"

namespace fastrnn::cpu {

namespace {

// The thresholds are from benchmarks/threads.py, two AVX-512 cores with 2 MB of L2 cache each, torch 2.13.0,
// 2026-11-22; figures are one thread's time over two threads', medians of pairs.

// Multiply-adds per step below which partitioning the units does not pay for the barrier: at 36,864 (B = 1, H = 96) it
// is worth 1.16-1.38.
constexpr int64_t kWorthSplittingUnits = 32 * 1024;
// Multiply-adds per call below which starting the team does not pay: 1.00-1.07 at 262,144, 1.11-1.19 at 524,288.
constexpr int64_t kWorthATeam = 256 * 1024;
// Recurrent weights up to this size can be streamed by every thread, so that each may run the whole layer for its own
// batch rows: at B = 8, H = 32 that is worth 1.25-1.29, partitioning the units 1.10. At 1 MB (H = 256) the two are
// level; at 4 MB (B = 16, H = 512) partitioning the units is worth 1.60-1.71, the batch 1.23.
constexpr int64_t kSharedWeightBytes = 1 << 20;
// Nor more than a core's L2 cache holds: with 512 KB (AVX2, 2026-11-25), partitioning the units at B = 32, H = 256 was
// worth 1.06-1.11 in LSTM and 1.04-1.11 in GRU inference (suite.py against torch.nn, by changing this).
int64_t shared_weight_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t cache = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (cache > 0) return smaller(kSharedWeightBytes, cache);  // 0 if unknown
#endif
  return kSharedWeightBytes;
}
// Size of a direction's recurrent weights up to which they stay in the cache of the core that runs the direction by
// itself. The time over that of two layers of one direction which partition their units, for B = 1 and 4, least of 250:
// at 1.3 MB (H = 288) 0.98 and 0.93, at 1.6 MB 1.03 and 1.00, at 2 MB 1.14 and 1.04.
constexpr int64_t kOwnWeightBytes = 3 << 19;
// Multiply-adds of a layer from which stacked layers run as a wavefront, if its steps are too small to partition: a
// thread's wait for its first sub-chunk, and the overhead of every sub-chunk, must be small beside the work.
// benchmarks/threads.py --only stacked, two AVX2 cores, 2026-11-25, two layers of 1 to 60 million: forward is worth
// 1.2-1.6, training 1.1-1.7. Where a step can be partitioned, that is better: 1.2-1.8 against 1.0-1.6 for T = 100 and H
// = 96 to 288.
constexpr int64_t kWorthAWavefront = 1 << 20;
// Multiply-adds between two looks at the clock: a millisecond or less, against 25 ns for the look.
constexpr int64_t kPollMacs = 4 * 1024 * 1024;
// Rows of a whole call, steps times batch, up to which the recurrent weights are read in place. benchmarks/packing.py,
// one thread, the time with packed weights over that in place, for T x B = 4 x 1 and 1 x 8, RNN, LSTM, GRU. Forward: at
// H = 64 1.10, 1.28, 1.12 and 0.97, 0.81, 0.71; at H = 512 2.05, 1.71, 1.71 and 1.22, 1.41, 1.14. Backward: at H = 64
// 1.01, 1.40, 1.32 for 4 x 1; at H = 512 1.49, 1.07, 1.06, and 1.20, 0.71, 0.75 for 8 x 1.
int64_t rows_in_place(const Workload& work) { return work.weight_bytes < (1 << 20) || work.backward ? 4 : 8; }

WeightSource choose_weights(const Workload& work) {
  if (work.frozen) return WeightSource::kFrozen;
  return work.steps * work.batch > rows_in_place(work) ? WeightSource::kPacked : WeightSource::kInPlace;
}
// Rows per thread of a GEMM by panels from which the time to pack (or widen) all weights is negligible: then rows are
// partitioned, which balances better, instead of panels. RNN inference of bfloat16 layers, the time with rows
// partitioned over that with panels, by changing this: at 16 to 32 rows a thread 0.93-1.16, at 64 0.85-1.01, at 128
// 0.86-1.04, at 150 and more 0.72-1.03 but for one.
constexpr int64_t kWorthPackingTwice = 128;
// Batch rows that each thread should have: fewer leave the register tile half empty.
constexpr int64_t kRowsPerThread = 4;
// Bytes of recurrent weights up to which one row per thread is enough, if there is no other way to split the work: two
// threads were 1.1-1.5 times as fast as one at B = 4 to 7, H = 32 and 64 (RNN to 128), 1.2-1.55 at B = 2, 0.88-1.13 at
// B = 3; with 192 and 256 KB of weights (GRU and LSTM, H = 128, B = 4 and 5) 0.89-1.14. Inference and training, by
// changing this, AVX2, 2026-11-26.
constexpr int64_t kLightWeights = 128 * 1024;
// Bytes of input weights up to which the time loop multiplies the input: in a team, alone, and alone with
// kRowsPerThread batch rows and more. The time with torch's GEMM over that with the loop's, inference, by
// force_input_steps() interleaved in one process (AVX2, 2026-11-26): two threads at H = 32 to 256, RNN 1.0-1.4, GRU
// 1.0-1.2, LSTM 1.0-1.4, the least at B = 1, H = 256, T = 100 (0.95-1.05); beyond 1 MB 0.92-1.09. One thread up to H =
// 96, RNN and GRU 1.0-1.25, LSTM 1.0-1.19; at H = 128 to 320 0.91-1.03 for B = 1 and 2 but for one, 0.99-1.27 for B = 4
// to 64.
constexpr int64_t kTeamInputWeights = 1 << 20, kAloneInputWeights = 128 * 1024, kAloneInputWeightsOfRows = 2 << 20;
// Steps whose input is multiplied at a time, as long as the gates of a worker's rows are no more bytes than that. Of 1
// to 32 steps, those that made 64 to 128 KB did best; 256 KB, half the L2 cache, took 1.1-1.3 times as long.
constexpr int64_t kInputSteps = 32, kInputGateBytes = 128 * 1024;

int64_t choose_input_steps(const Workload& work, const Plan& plan) {
  if (work.backward || plan.weights == WeightSource::kInPlace) return 0;
  if (forced_input_steps >= 0) return forced_input_steps;
  const int64_t alone = work.batch < kRowsPerThread ? kAloneInputWeights : kAloneInputWeightsOfRows;
  if (work.input_bytes > (plan.threads > 1 ? kTeamInputWeights : alone)) return 0;
  const int64_t rows = plan.split == Split::kBatch ? ceil_div(work.batch, plan.threads) : work.batch;
  return larger(1, smaller(kInputSteps, kInputGateBytes / larger(1, rows * work.gate_bytes)));
}

}  // namespace

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
  const bool narrow_input = work.input_macs <= 2 * work.step_macs;
  if (work.directions == 1 && dealt_evenly && narrow_input && macs >= kWorthAWavefront && !worth_dividing) {
    return choice(by_layers, Split::kLayers, "layers run as a wavefront, each on one thread");
  }
  if (!worth_a_team) return choice(1, Split::kNone, "too little work for a second thread");
  if (work.batch >= threads && work.weight_bytes <= kLightWeights) {
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

}  // namespace fastrnn::cpu
