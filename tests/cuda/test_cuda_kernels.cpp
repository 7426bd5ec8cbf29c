// Runs the CUDA kernels on every case, on the emulated GPU.
//
//   test_cuda_kernels [--seed N] [--every N] [--path streamed|persistent|cluster] [--type f64|f32|f16|bf16]
//                     [--cell rnn_tanh|rnn_relu|lstm|gru]
//
// --every N takes about one case in N.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "previous_h_run.h"
#include "test_plan.h"

#ifdef FASTRNN_EMULATION_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastrnn::test {

namespace {

struct Options {
  uint64_t seed = 0;
  uint64_t every = 1;
  std::string path, type, cell;  // empty for all

  template <class T>
  bool wants(const char* some_path) const {
    return (path.empty() || path == some_path) && (type.empty() || type == type_name<T>());
  }
  bool wants(const Case& drawn) const { return cell.empty() || drawn.name().starts_with(cell + " "); }
};

// Around the threads of a warp and of a block.
const Coverage kStreamedCoverage{{Shape::kDense, Shape::kPacked, Shape::kPadded, Shape::kDeviceSizes},
                                 {1, 7, 16, 33, 48, 64},
                                 {1, 3, 17, 33},
                                 {1, 2, 5},
                                 true,
                                 true};

std::vector<GpuPlan> streamed_plans(const Case& drawn) {
  const cuda::Plan streamed{};
  return {{drawn.seed, streamed}, {drawn.seed + 1, streamed}};
}

// Around the units of a block, the rows of a tile, and the warps that share a GEMM.
const Coverage kStationaryCoverage{{Shape::kDense, Shape::kPacked, Shape::kPadded, Shape::kDeviceSizes},
                                   {16, 32, 48, 144},
                                   {1, 3, 17, 33},
                                   {1, 2, 5},
                                   false,
                                   false};

// More weights than the registers take.
template <class T>
const Coverage kLargeCoverage{{Shape::kDeviceSizes}, {sizeof(T) == 4 ? 272 : 528}, {3}, {2}, false, false};
template <class T>
const Coverage kLargeClusterCoverage{{Shape::kDeviceSizes}, {sizeof(T) == 4 ? 256 : 512}, {3}, {3}, false, false};

// Units for one cluster and for two, and for more weights than the registers take; of these, what has gates to split.
const Coverage kSplitCoverage{kStationaryCoverage.shapes, {64, 128}, {3, 33}, {2, 5}, false, false};
template <class T>
const Coverage kLargeSplitCoverage{{Shape::kDeviceSizes}, {sizeof(T) == 4 ? 320 : 576}, {3}, {2}, false, false};

// All batch rows in one group, and in as many as the plan has or in two. Asking for the plan also lets the kernels have
// their shared memory.
template <class T>
std::vector<GpuPlan> stationary_plans(const char* path, cuda::MathMode math, const Case& drawn, bool backward) {
  const bool allow_tf32 = math == cuda::MathMode::kTensorCores;
  const cuda::Workload work{2, {drawn.batch, drawn.hidden, drawn.hidden, false}, 1, 1, true, allow_tf32, false};
  setenv("FASTRNN_CUDA_PATH", path, 1);
  const auto [chosen, reasons] = cuda::choose_plan<T>(drawn.cell, work, backward);
  unsetenv("FASTRNN_CUDA_PATH");
  if (name_of(chosen.path) != std::string_view(path))
    throw std::runtime_error(std::string("no plan: ") + words_of(reasons[0]));
  cuda::Plan one_group = chosen, two_groups = chosen;
  one_group.grid.batch_groups = 1;
  two_groups.grid.batch_groups = std::min<int64_t>(chosen.grid.batch_groups, 2);
  return {{drawn.seed, one_group}, {drawn.seed + 1, drawn.seed % 2 ? chosen : two_groups}};
}

// The same in larger blocks, for which the plan needs more batch rows than these.
template <class T>
std::vector<GpuPlan> large_block_plans(cuda::MathMode math, const Case& drawn, bool backward) {
  std::vector<GpuPlan> plans = stationary_plans<T>("cluster", math, drawn, backward);
  const int64_t blocks = drawn.hidden / cuda::kClusterUnits[1];
  if (drawn.hidden % cuda::kClusterUnits[1] != 0 || blocks == plans[0].plan.grid.unit_blocks) return {};
  const Dims dims{drawn.batch, drawn.hidden, drawn.hidden, false};
  const auto& kernels = cuda::cluster_kernels<T>(drawn.cell, cuda::kClusterUnits[1], math);
  for (auto& [seed, plan] : plans) {
    plan.grid.unit_blocks = blocks;
    const int64_t tiles = plan.grid.tiles(drawn.batch);
    const int fit = backward ? kernels.backward.resident_clusters(dims, blocks, tiles)
                             : kernels.forward.resident_clusters(dims, blocks, tiles);
    if (fit == 0) throw std::runtime_error("no cluster of large blocks fits");
  }
  return plans;
}

// The persistent ones with GEMMs split over clusters, for which the plan needs more units than these.
template <class T>
std::vector<GpuPlan> split_plans(const Case& drawn) {
  constexpr cuda::MathMode kMath = cuda::MathMode::kTensorCores;
  std::vector<GpuPlan> plans = stationary_plans<T>("persistent", kMath, drawn, true);
  const auto& pass = cuda::persistent_kernels<T>(drawn.cell, kMath).split_backward;
  for (auto& [seed, plan] : plans) {
    plan.grid.split = cuda::kSplitBlocks;
    const cuda::Grid& grid = plan.grid;
    if (pass.resident_blocks({drawn.batch, drawn.hidden, drawn.hidden, false}) < grid.unit_blocks * grid.batch_groups) {
      throw std::runtime_error("clusters that split a product do not fit");
    }
  }
  return plans;
}

std::vector<Case> some_cases(const Coverage& coverage, const Options& options) {
  std::vector<Case> cases = all_cases(coverage, options.seed);
  std::erase_if(cases, [&](const Case& drawn) { return drawn.seed % options.every != 0 || !options.wants(drawn); });
  return cases;
}

// Calls run(drawn, report) for each case.
template <class Run>
void test_cases(const std::string& name, const std::vector<Case>& cases, Report& total, const Run& run) {
  Report report;
  for (const Case& drawn : cases) {
    if (report.enough()) break;
    run(drawn, report);
  }
  std::printf("%s: %zu cases, %d failures, largest error %.2f of the bound\n", name.c_str(), cases.size(),
              report.failures(), report.largest_error());
  total.add(report);
}

template <class Machine>
void test_passes(const Machine& gpu, const std::vector<Case>& cases, Report& report) {
  test_cases(gpu.name(), cases, report, [&](const Case& drawn, Report& of_gpu) {
    ForwardRun(gpu, drawn, of_gpu).run(streamed_plans(drawn));
    BackwardRun(gpu, drawn, of_gpu).run(streamed_plans(drawn));
  });
}

template <class T>
void test_streamed(const Options& options, Report& report) {
  if (!options.wants<T>("streamed")) return;
  const std::vector<Case> cases = some_cases(kStreamedCoverage, options);
  Options fewer = options;
  fewer.every *= 2;
  const std::vector<Case> extended_cases = some_cases(kStreamedCoverage, fewer);
  test_passes(Gpu<T>(Path::kStreamed), cases, report);
  test_passes(ExtendedGpu<T>(), extended_cases, report);
  for (bool extended : {false, true}) {
    const PreviousHGpu<T> gather(extended);
    test_cases(gather.name(), extended ? extended_cases : cases, report, [&](const Case& drawn, Report& of_gather) {
      PreviousHRun<T>(gather, drawn, of_gather).run(streamed_plans(drawn));
    });
  }
}

// All large ones of the cell that has the most weights.
std::vector<Case> some_and_large_cases(const Coverage& coverage, const Coverage& large_coverage,
                                       const Options& options) {
  std::vector<Case> cases = some_cases(coverage, options);
  for (const Case& large : all_cases(large_coverage, options.seed)) {
    if (large.cell == kLstm && options.wants(large)) cases.push_back(large);
  }
  return cases;
}

template <class T>
void test_stationary(Path path, cuda::MathMode math, const Coverage& large_coverage, const Options& options,
                     Report& report) {
  const char* const name = name_of(path);
  if (!options.wants<T>(name)) return;
  const std::vector<Case> cases = some_and_large_cases(kStationaryCoverage, large_coverage, options);
  const Gpu<T> gpu(path, math);
  test_cases(gpu.name(), cases, report, [&](const Case& drawn, Report& of_gpu) {
    ForwardRun(gpu, drawn, of_gpu).run(stationary_plans<T>(name, math, drawn, false));
    BackwardRun(gpu, drawn, of_gpu).run(stationary_plans<T>(name, math, drawn, true));
    if (path != Path::kCluster) return;
    ForwardRun(gpu, drawn, of_gpu).run(large_block_plans<T>(math, drawn, false));
    BackwardRun(gpu, drawn, of_gpu).run(large_block_plans<T>(math, drawn, true));
  });
}

template <class T>
void test_split(const Options& options, Report& report) {
  if (!options.wants<T>("persistent")) return;
  std::vector<Case> cases = some_and_large_cases(kSplitCoverage, kLargeSplitCoverage<T>, options);
  std::erase_if(cases, [](const Case& drawn) { return cell_facts(drawn.cell).gates == 1; });
  const Gpu<T> gpu(Path::kPersistent);
  test_cases(gpu.name() + " split", cases, report,
             [&](const Case& drawn, Report& of_gpu) { BackwardRun(gpu, drawn, of_gpu).run(split_plans<T>(drawn)); });
}

template <class T>
void test_stationary(cuda::MathMode math, const Options& options, Report& report) {
  test_stationary<T>(Path::kPersistent, math, kLargeCoverage<T>, options, report);
  test_stationary<T>(Path::kCluster, math, kLargeClusterCoverage<T>, options, report);
}

Options parse(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (word == "--seed" && i + 1 < count) {
      options.seed = std::strtoull(words[++i], nullptr, 10);
    } else if (word == "--every" && i + 1 < count) {
      options.every = std::max(std::strtoull(words[++i], nullptr, 10), 1ull);
    } else if (word == "--path" && i + 1 < count) {
      options.path = words[++i];
    } else if (word == "--type" && i + 1 < count) {
      options.type = words[++i];
    } else if (word == "--cell" && i + 1 < count) {
      options.cell = words[++i];
    } else {
      std::fprintf(stderr, "usage: test_cuda_kernels [--seed N] [--every N] [--path PATH] [--type T] [--cell C]\n");
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

}  // namespace fastrnn::test

int main(int count, char** words) {
  using namespace fastrnn::test;
  using fastrnn::cuda::MathMode;
  const Options options = parse(count, words);
#ifdef FASTRNN_EMULATION_ASAN
  __sanitizer_set_death_callback([] { std::fprintf(stderr, "during %s\n", current_call.c_str()); });
#endif
  Report report;
  test_plan(report);
  test_streamed<double>(options, report);
  test_streamed<float>(options, report);
  test_streamed<__half>(options, report);
  test_streamed<__nv_bfloat16>(options, report);
  test_stationary<float>(MathMode::kExact, options, report);
  test_stationary<float>(MathMode::kTensorCores, options, report);
  test_stationary<__half>(MathMode::kTensorCores, options, report);
  test_stationary<__nv_bfloat16>(MathMode::kTensorCores, options, report);
  test_split<float>(options, report);
  test_split<__half>(options, report);
  test_split<__nv_bfloat16>(options, report);
  return report.failures() > 0;
}
