// Which kernels run, and on how many threads: every decision that the CPU path makes.
#pragma once

#include "kernels.h"
#include "plan.h"

namespace fastrnn::cpu {

// The kernels of the best instruction set that this processor has, or of the lower one that FASTRNN_ISA names.
// Throws std::runtime_error if FASTRNN_ISA names none that runs here.
const Kernels& kernels();

// What one pass over the sequence asks of the machine, for each direction of each layer.
struct Workload {
  int threads;  // that torch allows
  int64_t layers, directions;
  int64_t steps, batch;
  int64_t step_macs;     // multiply-adds of a full step
  int64_t input_macs;    // those of its input, in the first layer
  int64_t weight_bytes;  // recurrent weights, read at every step
  int64_t panels;        // pieces that the units can be dealt in
  int64_t input_bytes;   // weights of the widest layer's input
  int64_t gate_bytes;    // of a row's gates
  bool backward;
  bool frozen;  // the recurrent weights were packed by an earlier call
};

struct Choice {
  Plan plan;
  const char* reason;  // why not more threads, or another split
};

Choice choose_plan(const Workload& work);

// If not negative, what input_steps is in plans whose weights are packed or frozen: tests want both ways.
inline int64_t forced_input_steps = -1;

// How a product of many rows with bfloat16 weights is spread over threads.
GemmPlan choose_gemm_plan(int threads, int64_t rows, int64_t macs, int64_t panels);

}  // namespace fastrnn::cpu
