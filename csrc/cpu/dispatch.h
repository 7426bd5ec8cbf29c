// Which kernels run, and on how many threads: every decision of the CPU path.
#pragma once

#include "kernels.h"
#include "plan.h"

namespace fastrnn::cpu {

// The kernels for the best instruction set that this processor supports, or for the lesser one that FASTRNN_ISA names.
// Throws std::runtime_error if FASTRNN_ISA names none that runs here.
const Kernels& kernels();

// The cost of one pass over the sequence, for each direction of each layer.
struct Workload {
  int threads;  // allowed by torch
  int64_t layers, directions;
  int64_t steps, batch;
  int64_t step_macs;     // multiply-adds of a full step
  int64_t input_macs;    // those of its input, in the first layer
  int64_t weight_bytes;  // recurrent weights, read at every step
  int64_t panels;        // pieces into which the units can be partitioned
  int64_t input_bytes;   // weights of the widest layer's input
  int64_t gate_bytes;    // gates of one row
  bool backward;
  bool frozen;  // the recurrent weights were packed by an earlier call
};

struct Choice {
  Plan plan;
  const char* reason;  // for not using more threads, or another split
};

Choice choose_plan(const Workload& work);

// If not negative, the input_steps of every plan whose weights are packed or frozen: tests cover both ways.
inline int64_t forced_input_steps = -1;

// How a GEMM of many rows with bfloat16 weights is split over threads.
GemmPlan choose_gemm_plan(int threads, int64_t rows, int64_t macs, int64_t panels);

}  // namespace fastrnn::cpu
