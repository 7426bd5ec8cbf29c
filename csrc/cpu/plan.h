// How a call is spread over threads: facts for the kernels and for explain().
#pragma once

#include <cstdint>

#include "panels.h"
#include "team.h"

namespace fastrnn::cpu {

// kBatch: each thread runs the whole sequence for its own batch rows and never waits for another.
// kUnits: each thread owns some hidden units, keeps their weights close, and waits for the others at every step.
// kDirections: each of two threads runs one direction of a layer as if it were alone.
// kLayers: each thread runs one or more stacked layers as if they were alone, part by part of the sequence
// (wavefront.h).
enum class Split { kNone, kBatch, kUnits, kDirections, kLayers };

// Where the time loop finds the recurrent weights: as they lie in their tensors, packed at the start of the call, or
// packed by an earlier one (ForwardParams::frozen).
enum class WeightSource { kInPlace, kPacked, kFrozen };

struct Plan {
  int threads;  // of the team
  Split split;
  int64_t poll_every;  // steps between two looks at the clock, for Ctrl-C
  WeightSource weights;
  int64_t input_steps = 0;  // whose input the time loop multiplies at a time; 0 where its caller does, all of it before
};

// Cuts the scratch of a call into its parts; with no scratch it only counts.
template <class T>
struct Arena {
  T* scratch;
  int64_t used = 0;

  FASTRNN_INLINE T* take(int64_t count) { return take_as<T>(count); }
  // A part for values of a type that is not wider than T.
  template <class W>
  FASTRNN_INLINE W* take_as(int64_t count) {
    T* part = scratch ? scratch + used : nullptr;
    used += ceil_div(count * static_cast<int64_t>(sizeof(W)), sizeof(T));
    return reinterpret_cast<W*>(part);
  }
};

// Where each worker runs its own batch rows, those of its state begin so many bytes further from the next worker's than
// they would side by side: a core reads ahead of what it reads, but not beyond a page, and what it takes from the core
// that writes there at every step, that one has to take back. Worth 1.15, 1.15, 1.0 and 1.0 for LSTM at (512, 8, 64,
// 64), (100, 16, 128, 128), (1000, 4, 32, 32) and (28, 128, 128, 128), 1.08, 1.09, 1.04 and 1.0 for GRU (the time loop
// alone on two cores, AVX2, 2026-11-26); level in backward, which has no such state but the gradients of c and h.
constexpr int64_t kRowPaddingBytes = 4096;

// Values that lie between the rows of all workers.
template <class T>
FASTRNN_INLINE int64_t row_padding(const Plan& plan) {
  return plan.split == Split::kBatch ? plan.threads * kRowPaddingBytes / static_cast<int64_t>(sizeof(T)) : 0;
}

// What one worker of the team works on: batch rows, and its part of any number of panels.
struct WorkSlice {
  Plan plan;
  Worker& worker;

  FASTRNN_INLINE Range rows(int64_t batch) const {
    return plan.split == Split::kBatch ? share(batch, worker.index, worker.count) : Range{0, batch};
  }
  // Values that lie before this worker's rows; see row_padding().
  template <class T>
  FASTRNN_INLINE int64_t row_padding_before() const {
    return row_padding<T>(plan) / plan.threads * worker.index;
  }
  // The worker's part of (B, size) values, in what is done once.
  FASTRNN_INLINE Range values(int64_t batch, int64_t size) const {
    if (!has_whole_rows()) return share(batch * size, worker.index, worker.count);
    const Range mine = rows(batch);
    return {mine.begin * size, mine.end * size};
  }
  FASTRNN_INLINE bool has_whole_rows() const { return plan.split != Split::kUnits; }
  // Calls visit(panels) for the worker's panels in step s, kPanelsOfARow of them or fewer at a time: forwards in even
  // steps, backwards in odd ones, so that the panels that a step reads first are those that the last one left in the
  // cache.
  template <class Visit>
  FASTRNN_INLINE void for_each_panels(int64_t count, int64_t s, const Visit& visit) const {
    const Range mine = plan.split == Split::kUnits ? share(count, worker.index, worker.count) : Range{0, count};
    const int64_t visits = ceil_div(mine.end - mine.begin, kPanelsOfARow);
    for (int64_t n = 0; n < visits; ++n) {
      const int64_t begin = mine.begin + (s % 2 == 0 ? n : visits - 1 - n) * kPanelsOfARow;
      visit(Range{begin, smaller(begin + kPanelsOfARow, mine.end)});
    }
  }
  // The worker's part of the batch rows that rows() gave it, in a phase that works on whole rows.
  FASTRNN_INLINE Range partition(const Range& rows) const {
    if (has_whole_rows()) return rows;
    const Range mine = share(rows.end - rows.begin, worker.index, worker.count);
    return {rows.begin + mine.begin, rows.begin + mine.end};
  }
  // The end of a phase whose results other workers read.
  FASTRNN_INLINE void sync() const {
    if (plan.split == Split::kUnits) worker.barrier();
  }
  // The end of the step that is the count-th of the loop; false to leave the loop.
  FASTRNN_INLINE bool end_step(int64_t count) const {
    if (count % plan.poll_every == 0) worker.poll(count);
    sync();
    return !worker.stopped_at(count);
  }
};

}  // namespace fastrnn::cpu
