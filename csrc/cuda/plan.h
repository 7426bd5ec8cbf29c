// Which way a layer takes through its sequence on a GPU.
#pragma once

#include "kernels.h"

namespace fastrnn::cuda {

enum class Path { kStreamed, kPersistent, kCluster };

const char* name_of(Path path);

struct Plan {
  Path path;
  Grid grid;  // of a persistent or a cluster kernel

  // Directions that one launch runs.
  int64_t at_once() const { return path == Path::kStreamed ? 1 : grid.directions; }
  // Hidden units of a block; 0 where nothing is dealt to blocks so.
  int64_t units(const Dims& dims) const { return path == Path::kStreamed ? 0 : dims.hidden_size / grid.unit_blocks; }
};

struct Choice {
  Plan plan;
  const char* reason;  // why this path
};

// What one pass over the sequence is like.
struct Workload {
  int64_t steps;
  Dims dims;
  int64_t directions;
  bool allow_tf32;  // see Queue
  bool extended;    // there are Extras
};

// Asks the current device what it can run at once.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward);

}  // namespace fastrnn::cuda
