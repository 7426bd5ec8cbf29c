#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "../cells/registry.h"
#include "common/launch.h"
#include "tuning.h"

namespace fastrnn::cuda {

namespace {

constexpr int kLeastCapability = 8;  // major: asynchronous copies, tensor cores for TF32 and bfloat16
constexpr int kLeastCapabilityOfClusters = 9;
constexpr int64_t kLargestCluster = 16;  // that any device may support

std::optional<Path> only_path();
template <class T>
MathMode math_of(const Workload& work);
std::optional<Reason> why_streamed(const Workload& work);
template <class T>
std::optional<Grid> best_cluster_grid(CellKind cell, const Workload& work, bool backward);
template <class T>
std::optional<Grid> persistent_grid(CellKind cell, const Workload& work, bool backward);
std::vector<Reason> reasons_of(Path path, const Grid& grid, const Workload& work);

}  // namespace

// The paths have not been timed on a GPU yet: benchmarks/gpu.py --paths is to find out. Taking a cluster kernel
// wherever its clusters are co-resident, and a persistent one wherever that fits, is what benchmarks/gpu_model.py
// predicts to be fastest, but for H = 512 from 16 rows on. There a persistent one may be faster by a fifth, if a
// multiprocessor receives no more from its cluster than the model guesses.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward) {
  const auto stream = [](Reason reason) { return Choice{{Path::kStreamed, {}, {}}, {reason}}; };
  const auto on_chip = [&](Path path, const Grid& grid) {
    return Choice{{path, grid, math_of<T>(work)}, reasons_of(path, grid, work)};
  };
  if constexpr (std::is_same_v<T, double>) {
    return stream(Reason::kFloat64);
  } else {
    const std::optional<Path> only = only_path();
    if (only == Path::kStreamed) return stream(Reason::kStreamedAskedFor);
    if (gave_up_waiting()) return stream(Reason::kGaveUpWaiting);
    if (const std::optional<Reason> reason = why_streamed(work)) return stream(*reason);
    const int capability = device_attribute(cudaDevAttrComputeCapabilityMajor);
    if (capability < kLeastCapability) return stream(Reason::kOldDevice);
    if (capability >= kLeastCapabilityOfClusters && only != Path::kPersistent) {
      if (const std::optional<Grid> grid = best_cluster_grid<T>(cell, work, backward)) {
        return on_chip(Path::kCluster, *grid);
      }
    }
    if (only == Path::kCluster) return stream(Reason::kClusterAskedFor);
    if (const std::optional<Grid> grid = persistent_grid<T>(cell, work, backward)) {
      return on_chip(Path::kPersistent, *grid);
    }
    return stream(Reason::kDoesNotFit);
  }
}

namespace {

// FASTRNN_CUDA_PATH allows one path besides the streamed one, which runs what that path cannot: to compare paths, or to
// rule one out.
std::optional<Path> only_path() {
  const char* const wish = std::getenv("FASTRNN_CUDA_PATH");
  if (!wish || !*wish) return {};
  for (const Path path : {Path::kStreamed, Path::kPersistent, Path::kCluster}) {
    if (std::string_view(wish) == name_of(path)) return path;
  }
  throw std::runtime_error("fastrnn: FASTRNN_CUDA_PATH=" + std::string(wish) +
                           ": use streamed, persistent or cluster, or leave it unset");
}

template <class T>
MathMode math_of(const Workload& work) {
  return std::is_same_v<T, float> && !work.allow_tf32 ? MathMode::kExact : MathMode::kTensorCores;
}

int64_t tiles_of(const Workload& work) { return (work.dims.batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile; }

// Why no kernel on any device can keep w_hh on the chip for the whole sequence, if so.
std::optional<Reason> why_streamed(const Workload& work) {
  if (work.extended) return Reason::kExtras;
  if (work.dims.projected) return Reason::kProjection;
  if (work.steps <= 1) return Reason::kSingleStep;
  if (work.dims.hidden_size % kUnitsPerBlock != 0) return Reason::kOddHiddenSize;
  if (work.dims.hidden_size == 0 || work.dims.batch == 0) return Reason::kNothingToCompute;
  return {};
}

// A grid for as many concurrent calls as fit, where `room` is the number of groups of batch rows that can be resident.
// Layers run concurrently only if that leaves each of them as many groups as it would have alone: otherwise running
// them one after the other is as fast.
template <class Fits>
std::optional<Grid> most_calls(const Workload& work, int64_t unit_blocks, int64_t room, const Fits& fits) {
  const bool wavefront = work.layers > 1 && work.dense && work.steps >= 2 * kSubChunkSteps;
  const int64_t most = work.directions > 1 ? work.directions : wavefront ? std::min(work.layers, kCallsAtOnce) : 1;
  for (int64_t calls = most; calls > 0; --calls) {
    const Grid grid{unit_blocks, std::min(tiles_of(work), room / calls), calls};
    const bool as_alone = grid.batch_groups == std::min(tiles_of(work), room);
    if (grid.batch_groups > 0 && (work.directions > 1 || as_alone) && fits(grid)) return grid;
  }
  return {};
}

// One cluster per group of batch rows, in blocks of that many units: as many groups as can be resident.
template <class T>
std::optional<Grid> cluster_grid(CellKind cell, const Workload& work, bool backward, int64_t units) {
  const int64_t blocks = work.dims.hidden_size / units;
  if (work.dims.hidden_size % units != 0 || blocks > kLargestCluster) return {};
  const ClusterKernels<T>& kernels = cluster_kernels<T>(cell, units, math_of<T>(work));
  const auto resident = [&](int64_t tiles_of_group) -> int64_t {
    return backward ? kernels.backward.resident_clusters(work.dims, blocks, tiles_of_group)
                    : kernels.forward.resident_clusters(work.dims, blocks, tiles_of_group);
  };
  const int64_t clusters = resident(1);
  return most_calls(work, blocks, clusters, [&](const Grid& grid) {
    return resident(grid.tiles(work.dims.batch)) >= grid.batch_groups * grid.calls;
  });
}

// Smaller blocks spread a step's work over more multiprocessors; larger ones are for layers that do not fit otherwise,
// or not all at once.
template <class T>
std::optional<Grid> best_cluster_grid(CellKind cell, const Workload& work, bool backward) {
  std::optional<Grid> best;
  for (const int64_t units : kClusterUnits) {
    const std::optional<Grid> grid = cluster_grid<T>(cell, work, backward, units);
    if (!grid) continue;
    const auto waits = [&](const Grid& each) {
      return each.tiles(work.dims.batch) * ((work.directions * work.layers + each.calls - 1) / each.calls);
    };
    if (!best || waits(*grid) < waits(*best)) best = grid;
  }
  return best;
}

// FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT in place of kLeastBytesToSplit has small shapes split, too: for tests.
int64_t least_bytes_to_split() {
  const char* const wish = std::getenv("FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT");
  if (!wish || !*wish) return kLeastBytesToSplit;
  char* end = nullptr;
  const int64_t bytes = std::strtoll(wish, &end, 10);
  if (*end == '\0' && bytes >= 0) return bytes;
  throw std::runtime_error("fastrnn: FASTRNN_CUDA_LEAST_BYTES_TO_SPLIT=" + std::string(wish) +
                           ": use a number of bytes, or leave it unset");
}

// Backward, every block of a persistent kernel reads the gradients of all gates of its batch rows at every step. Where
// the total over all blocks is large, clusters split it. Forward they read h, 1 / G of that, about as fast as they
// multiply. Multiprocessors that no cluster reaches may leave room for fewer groups of batch rows.
template <class T>
std::optional<Grid> split_grid(CellKind cell, const Workload& work, const Grid& whole) {
  const PersistentPass<Backward<T>>& pass = persistent_kernels<T>(cell, math_of<T>(work)).split_backward;
  const int64_t row_bytes = cell_facts(cell).gates * work.dims.hidden_size * static_cast<int64_t>(sizeof(T));
  if (!pass.run || device_attribute(cudaDevAttrComputeCapabilityMajor) < kLeastCapabilityOfClusters ||
      whole.unit_blocks % kSplitBlocks != 0 ||
      whole.unit_blocks * whole.calls * work.dims.batch * row_bytes < least_bytes_to_split()) {
    return {};
  }
  const int64_t room = pass.resident_blocks(work.dims) / (whole.unit_blocks * whole.calls);
  if (room == 0) return {};
  return Grid{whole.unit_blocks, std::min(whole.batch_groups, room), whole.calls, kSplitBlocks};
}

template <class T>
std::optional<Grid> persistent_grid(CellKind cell, const Workload& work, bool backward) {
  const PersistentKernels<T>& kernels = persistent_kernels<T>(cell, math_of<T>(work));
  const int64_t capacity =
      backward ? kernels.backward.resident_blocks(work.dims) : kernels.forward.resident_blocks(work.dims);
  const int64_t blocks = work.dims.hidden_size / kUnitsPerBlock;
  const std::optional<Grid> grid = most_calls(work, blocks, capacity / blocks, [](const Grid&) { return true; });
  const std::optional<Grid> split = grid && backward ? split_grid<T>(cell, work, *grid) : std::nullopt;
  return split ? split : grid;
}

std::vector<Reason> reasons_of(Path path, const Grid& grid, const Workload& work) {
  std::vector<Reason> reasons{path == Path::kCluster ? Reason::kClusterKeepsWeights : Reason::kChipKeepsWeights};
  if (grid.split > 1) reasons.push_back(Reason::kClustersSplit);
  if (work.directions == 1 && grid.calls > 1) reasons.push_back(Reason::kLayersAtOnce);
  return reasons;
}

}  // namespace

template Choice choose_plan<double>(CellKind, const Workload&, bool);
template Choice choose_plan<float>(CellKind, const Workload&, bool);
template Choice choose_plan<__half>(CellKind, const Workload&, bool);
template Choice choose_plan<__nv_bfloat16>(CellKind, const Workload&, bool);

}  // namespace fastrnn::cuda
