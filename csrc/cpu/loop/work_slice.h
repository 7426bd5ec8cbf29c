// What one worker of the team has to do, and the scratch it does it in.
#pragma once

#include <cstdint>

#include "../gemm/panels.h"
#include "../plan.h"
#include "../team/team.h"
#include "../tuning.h"

namespace fastrnn::cpu {

// Bump allocator over a call's scratch; with no scratch it only measures how much is needed.
template <class T>
struct Arena {
  T* scratch;
  int64_t used = 0;

  FASTRNN_INLINE T* take(int64_t count) { return take_as<T>(count); }
  // For values of a type that is no wider than T.
  template <class W>
  FASTRNN_INLINE W* take_as(int64_t count) {
    T* part = scratch ? scratch + used : nullptr;
    used += ceil_div(count * static_cast<int64_t>(sizeof(W)), sizeof(T));
    return reinterpret_cast<W*>(part);
  }
};

// Total padding between all workers' rows of the state under Split::kBatch, in values, so that prefetching can't cause
// false sharing: the hardware prefetcher reads ahead (though not beyond a page) into rows that another core writes at
// every step, and that core then has to fetch the lines back.
template <class T>
FASTRNN_INLINE int64_t row_padding(const Plan& plan) {
  return plan.split == Split::kBatch ? plan.threads * kRowPaddingBytes / static_cast<int64_t>(sizeof(T)) : 0;
}

// The share of one worker of the team: batch rows, and a range of any number of panels.
struct WorkSlice {
  Plan plan;
  Worker& worker;

  FASTRNN_INLINE Range rows(int64_t batch) const {
    return plan.split == Split::kBatch ? share(batch, worker.index, worker.count) : Range{0, batch};
  }
  // Padding before this worker's rows, in values; see row_padding().
  template <class T>
  FASTRNN_INLINE int64_t row_padding_before() const {
    return row_padding<T>(plan) / plan.threads * worker.index;
  }
  // The worker's share of (B, size) values, for one-off work.
  FASTRNN_INLINE Range values(int64_t batch, int64_t size) const {
    if (!has_whole_rows()) return share(batch * size, worker.index, worker.count);
    const Range mine = rows(batch);
    return {mine.begin * size, mine.end * size};
  }
  FASTRNN_INLINE bool has_whole_rows() const { return plan.split != Split::kUnits; }
  // Calls visit(panels) for the worker's panels in step s, up to kPanelsOfARow at a time: forwards in even steps,
  // backwards in odd ones, so that a step first reads the panels that the previous one left in the cache.
  template <class Visit>
  FASTRNN_INLINE void for_each_panels(int64_t count, int64_t s, const Visit& visit) const {
    const Range mine = plan.split == Split::kUnits ? share(count, worker.index, worker.count) : Range{0, count};
    const int64_t visits = ceil_div(mine.end - mine.begin, kPanelsOfARow);
    for (int64_t n = 0; n < visits; ++n) {
      const int64_t begin = mine.begin + (s % 2 == 0 ? n : visits - 1 - n) * kPanelsOfARow;
      visit(Range{begin, smaller(begin + kPanelsOfARow, mine.end)});
    }
  }
  // The worker's share of the batch rows from rows(), in a phase that works on whole rows.
  FASTRNN_INLINE Range partition(const Range& rows) const {
    if (has_whole_rows()) return rows;
    const Range mine = share(rows.end - rows.begin, worker.index, worker.count);
    return {rows.begin + mine.begin, rows.begin + mine.end};
  }
  // Ends a phase whose results other workers read.
  FASTRNN_INLINE void sync() const {
    if (plan.split == Split::kUnits) worker.barrier();
  }
  // Ends the count-th step of the loop; false if the loop is to be left. Workers of a step whose results nobody else
  // reads, neither then nor later, do not wait.
  template <bool kRead>
  FASTRNN_INLINE bool end_step(int64_t count) const {
    if (count % plan.poll_every == 0) worker.poll(count);
    if constexpr (kRead) sync();
    return !worker.stopped_at(count);
  }
};

// Calls visit(row, unit, lanes) for the worker's share of these rows' units, a vector at a time: all units of its own
// rows, or of all rows its own units.
template <class Isa, class T, class Visit>
FASTRNN_INLINE void for_each_unit(const WorkSlice& slice, const Range& rows, int64_t hidden, const Visit& visit) {
  constexpr int kLanes = Simd<Isa, T>::kLanes;
  Range mine{0, hidden};
  if (!slice.has_whole_rows()) {
    const Range vectors = share(ceil_div(hidden, kLanes), slice.worker.index, slice.worker.count);
    mine = {vectors.begin * kLanes, smaller(vectors.end * kLanes, hidden)};
  }
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    int64_t unit = mine.begin;
    for (; unit + kLanes <= mine.end; unit += kLanes) visit(row, unit, kLanes);
    if (unit < mine.end) visit(row, unit, static_cast<int>(mine.end - unit));
  }
}

}  // namespace fastrnn::cpu
