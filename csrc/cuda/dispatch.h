// Which way a layer takes through its sequence on a GPU: every decision that the CUDA path makes.
#pragma once

#include "kernels.h"

namespace fastrnn::cuda {

enum class Path { kStreamed, kPersistent };

struct Plan {
  Path path;
  Grid grid;  // of a persistent kernel
};

struct Choice {
  Plan plan;
  const char* reason;  // why this path
};

// What one pass over the sequence is like.
struct Workload {
  int64_t steps;
  Dims dims;
  bool packed;      // rows are known to the host alone
  bool allow_tf32;  // see Queue
  bool extended;    // there are Extras
};

// Asks the current device what it can run at once.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward);

// Scratch and launch of the pass that the plan names. How much scratch depends on dims and extras.
template <class T>
int64_t forward_scratch(CellKind cell, const Forward<T>& params, const Plan& plan);
template <class T>
int64_t backward_scratch(CellKind cell, const Backward<T>& params, const Plan& plan);
template <class T>
void run_forward(CellKind cell, const Forward<T>& params, const Plan& plan, const Queue& queue);
template <class T>
void run_backward(CellKind cell, const Backward<T>& params, const Plan& plan, const Queue& queue);

}  // namespace fastrnn::cuda
