// The extras (params.h) of one step, as its cells apply them. Only loops compiled for extras have one.
#pragma once

#include <limits>

#include "../../cells/zoneout.h"
#include "../../params.h"
#include "../isa/vector.h"

namespace fastrnn::cpu {

template <class Isa, class T>
struct StepExtras {
  using S = Simd<Isa, T>;
  using V = typename S::V;

  const Extras<T>& extras;
  int64_t s;                                 // -1 before the first step
  int64_t rows, rows_before, rows_after;     // running at this step, the one before and the one after
  int64_t first, first_before, first_after;  // batch row 0's row in the data at those steps
  int64_t recurrent, hidden;                 // K, H
  const T* hx;                               // (B, K)
  const T* output;                           // (N, output_stride)
  int64_t output_stride;

  StepExtras(const Extras<T>& extras, const Steps& steps, int64_t s, const Dims& dims, const T* hx, const T* output,
             int64_t output_stride)
      : extras(extras),
        s(s),
        rows(steps.rows(s)),
        rows_before(steps.rows(s - 1)),
        rows_after(steps.rows(s + 1)),
        first(steps.offset(s)),
        first_before(steps.offset(s - 1)),
        first_after(steps.offset(s + 1)),
        recurrent(dims.recurrent_size),
        hidden(dims.hidden_size),
        hx(hx),
        output(output),
        output_stride(output_stride) {}

  // The cut between this step of the row and the one before.
  FASTRNN_INLINE Cut cut_before(int64_t row) const {
    if (!extras.cuts || !(s == 0 || row < rows_before)) return kNoCut;
    return static_cast<Cut>(extras.cuts[first + row]);
  }
  // The cut between this step of the row and the next.
  FASTRNN_INLINE Cut cut_after(int64_t row) const {
    if (!extras.cuts || row >= rows_after || !(s < 0 || row < rows)) return kNoCut;
    return static_cast<Cut>(extras.cuts[first_after + row]);
  }

  // The h that the row's step starts from, before the mask: K values.
  FASTRNN_INLINE const T* previous_h(int64_t row) const {
    if (cut_before(row) == kCutState) return extras.reset_h + row * recurrent;
    return row < rows_before ? output + (first_before + row) * output_stride : hx + row * recurrent;
  }

  // The fraction of its old value that each unit keeps.
  FASTRNN_INLINE V kept_h(int64_t row, int64_t unit, int lanes) const {
    if (!extras.kept_h) return S::broadcast(extras.share_h);
    return S::load(extras.kept_h + (first + row) * recurrent + unit, lanes);
  }
  FASTRNN_INLINE V kept_cell(int state, int64_t row, int64_t unit, int lanes) const {
    if (!extras.kept_cell[state]) return S::broadcast(extras.share_cell[state]);
    return S::load(extras.kept_cell[state] + (first + row) * hidden + unit, lanes);
  }

  // h_t of the row, given its candidate value.
  FASTRNN_INLINE V zoned_h(int64_t row, int64_t unit, int lanes, V h) const {
    if (!extras.zones_h()) return h;
    return zoned<V>(h, kept_h(row, unit, lanes), S::load(previous_h(row) + unit, lanes));
  }
  FASTRNN_INLINE V zoned_cell(int state, int64_t row, int64_t unit, int lanes, V cell, V cell_prev) const {
    if (!extras.zones_cell(state)) return cell;
    return zoned<V>(cell, kept_cell(state, row, unit, lanes), cell_prev);
  }
  // The candidate value of h_t, given h_t. Masks keep all or nothing.
  FASTRNN_INLINE V candidate_h(int64_t row, int64_t unit, int lanes, V h) const {
    if (extras.kept_h || extras.share_h == T(0) || extras.share_h == T(1)) return h;
    const V part = candidates_part<V, T>(h, S::load(previous_h(row) + unit, lanes), extras.share_h,
                                         std::numeric_limits<T>::epsilon(), std::numeric_limits<T>::min());
    return part * (T(1) / (T(1) - extras.share_h));
  }

  // The h that the next step's GEMM takes, given this step's h (for the first step, hx).
  FASTRNN_INLINE V masked(int64_t row, int64_t unit, int lanes, V h) const {
    return extras.h_mask ? h * S::load(extras.h_mask + row * recurrent + unit, lanes) : h;
  }
};

}  // namespace fastrnn::cpu
