// Which way a layer takes through its sequence on a GPU.
#pragma once

#include <string>
#include <type_traits>

#include "kernels.h"

namespace fastrnn::cuda {

enum class Path { kStreamed, kPersistent, kCluster };

const char* name_of(Path path);

struct Plan {
  Path path;
  Grid grid;      // of a persistent or a cluster kernel
  MathMode math;  // the same

  // Calls that one launch runs.
  int64_t at_once() const { return path == Path::kStreamed ? 1 : grid.calls; }
  // The same for so many calls, no more than those.
  Plan of(int64_t calls) const {
    Plan plan = *this;
    plan.grid.calls = calls;
    return plan;
  }
  // Hidden units of a block; 0 where nothing is dealt to blocks so.
  int64_t units(const Dims& dims) const { return path == Path::kStreamed ? 0 : dims.hidden_size / grid.unit_blocks; }
};

struct Choice {
  Plan plan;
  std::string reason;  // why this path
};

// By how they multiply; only float has more than one way.
template <class T>
const PersistentKernels<T>& persistent_kernels(CellKind cell, MathMode math) {
  if constexpr (std::is_same_v<T, float>) {
    if (math == MathMode::kExact) return persistent<float, MathMode::kExact>(cell);
  }
  return persistent<T, MathMode::kTensorCores>(cell);
}
template <class T>
const ClusterKernels<T>& cluster_kernels(CellKind cell, int64_t units, MathMode math) {
  if constexpr (std::is_same_v<T, float>) {
    if (math == MathMode::kExact) return cluster<float, MathMode::kExact>(cell, units);
  }
  return cluster<T, MathMode::kTensorCores>(cell, units);
}

// That a launch runs where layers are a wavefront: by benchmarks/gpu_model.py what is lost between launches and at both
// ends, where not all layers run, is together least for about so many.
constexpr int64_t kSubChunkSteps = 64;

// What one pass over the sequence is like.
struct Workload {
  int64_t steps;
  Dims dims;
  int64_t layers, directions;
  bool dense;       // all rows run at all steps
  bool allow_tf32;  // see Queue
  bool extended;    // there are Extras
};

// Asks the current device what it can run at once.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward);

}  // namespace fastrnn::cuda
