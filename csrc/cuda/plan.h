// Which path a layer takes through its sequence on a GPU.
#pragma once

#include <type_traits>
#include <vector>

#include "../pass_words.h"
#include "kernels.h"

namespace fastrnn::cuda {

struct Plan {
  Path path;
  Grid grid;      // of a persistent or a cluster kernel
  MathMode math;  // the same

  // Calls per launch.
  int64_t at_once() const { return path == Path::kStreamed ? 1 : grid.calls; }
  // The same plan for that many calls, at most at_once().
  Plan of(int64_t calls) const {
    Plan plan = *this;
    plan.grid.calls = calls;
    return plan;
  }
  // Hidden units per block; 0 if units are not partitioned over blocks.
  int64_t units(const Dims& dims) const { return path == Path::kStreamed ? 0 : dims.hidden_size / grid.unit_blocks; }
};

struct Choice {
  Plan plan;
  std::vector<Reason> reasons;  // why this path
};

// By math mode; only float has more than one.
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

// The shape of one pass over the sequence.
struct Workload {
  int64_t steps;
  Dims dims;
  int64_t layers, directions;
  bool dense;       // all rows run at every step
  bool allow_tf32;  // see Queue
  bool extended;    // there are Extras
};

// Queries the current device for what can be resident.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward);

}  // namespace fastrnn::cuda
