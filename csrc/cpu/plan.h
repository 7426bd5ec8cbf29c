// How a call is spread over threads: facts for the kernels and for explain().
#pragma once

#include <cstdint>

#include "panels.h"
#include "team.h"

namespace fastrnn::cpu {

// kBatch: each thread runs the whole sequence for its own batch rows and never waits for another.
// kUnits: each thread owns some hidden units, keeps their weights close, and waits for the others at every step.
enum class Split { kNone, kBatch, kUnits };

struct Plan {
  int threads;
  Split split;
  int64_t poll_every;  // steps between two looks at the clock, for Ctrl-C
};

// Cuts the scratch of a call into its parts; with no scratch it only counts.
template <class T>
struct Carver {
  T* scratch;
  int64_t used = 0;

  FASTRNN_INLINE T* take(int64_t count) {
    T* part = scratch ? scratch + used : nullptr;
    used += count;
    return part;
  }
};

// What one member of the team works on: batch rows, and its part of any number of panels.
struct Portion {
  Plan plan;
  Member& member;

  FASTRNN_INLINE Range rows(int64_t batch) const {
    return plan.split == Split::kBatch ? share(batch, member.index, member.count) : Range{0, batch};
  }
  FASTRNN_INLINE Range panels(int64_t count) const {
    return plan.split == Split::kUnits ? share(count, member.index, member.count) : Range{0, count};
  }
  // The end of a phase whose results other members read.
  FASTRNN_INLINE void meet() const {
    if (plan.split == Split::kUnits) member.barrier();
  }
  // The end of the step that is the count-th of the loop; false to leave the loop.
  FASTRNN_INLINE bool end_step(int64_t count) const {
    if (count % plan.poll_every == 0) member.poll(count);
    meet();
    return !member.stopped_at(count);
  }
};

}  // namespace fastrnn::cpu
