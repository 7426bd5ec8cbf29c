// How a call is split over threads, and where its weights are read: every decision of the CPU path. Read by the kernels
// and by explain().
#pragma once

#include <cstdint>
#include <optional>

#include "../pass_words.h"

namespace fastrnn::cpu {

// kBatch: each thread runs the whole sequence for its own batch rows and never waits for another.
// kUnits: each thread owns some hidden units, keeps their weights in its cache, and waits for the others at every step.
// kDirections: each of two threads runs one direction of a layer on its own.
// kLayers: each thread runs one or more stacked layers on its own, one sub-chunk of the sequence at a time
// (wavefront.h).
enum class Split { kNone, kBatch, kUnits, kDirections, kLayers };

// Where the time loop finds the recurrent weights: in their own tensors, packed at the start of the call, or packed by
// an earlier call (ForwardParams::frozen).
enum class WeightSource { kInPlace, kPacked, kFrozen };

struct Plan {
  int threads;  // in the team
  Split split;
  int64_t poll_every;  // steps between two polls for Ctrl-C
  WeightSource weights;
  int64_t input_steps = 0;  // steps per input GEMM in the time loop; 0 if its caller multiplies all of the input before
};

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
  bool frozen;         // the recurrent weights were packed by an earlier call
  bool waits;          // units of one step need all units of the step before
  bool input_in_loop;  // the time loop is able to multiply the input
  bool input_frozen;   // w_ih was packed by an earlier call, too, and is read by the time loop alone
};

struct Choice {
  Plan plan;
  Reason reason;  // for not using more threads, or another split
};

Choice choose_plan(const Workload& work);

// If not negative, the input_steps of every plan whose weights are packed or frozen: tests cover both ways.
inline int64_t forced_input_steps = -1;

// A GEMM before or after the time loop: out (rows, columns) = a (rows, depth) b (depth, columns), or added to out.
struct GemmShape {
  int threads;  // allowed by torch
  int64_t rows, columns, depth;
  bool by_columns;       // the columns of a are contiguous, not its rows
  int64_t weight_bytes;  // of b, if it is the transpose of weights as they lie, else 0
  bool reads_rows;       // multiply_rows() can compute it
  int64_t element_size;
  bool narrow_weights;  // b is stored in a narrower type
};

// kPlainLoop: too small for anything else. kTransposed: as the transpose of b^T a^T, whichever code then computes that.
// kRows: multiply_rows(), which reads the weights' rows as they lie. kPanels: multiply_panels(). kTorch: torch's GEMM.
enum class GemmCode { kPlainLoop, kTransposed, kRows, kPanels, kTorch };

struct GemmPlan {
  GemmCode code;
  int threads;   // of multiply_panels()
  bool by_rows;  // each thread multiplies its own rows by all columns of b; else all rows by its own columns
};

GemmPlan choose_gemm_plan(const GemmShape& shape);

// If set, the code of every GEMM that neither kPanels nor kTorch is wrong for: tests and benchmarks compare the two.
inline std::optional<GemmCode> forced_gemm_code;

}  // namespace fastrnn::cpu
