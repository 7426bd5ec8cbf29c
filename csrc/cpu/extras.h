// What extras (params.h) add to the cells of one step. Only the loops that are compiled for extras hold one.
#pragma once

#include <limits>

#include "../params.h"
#include "vector.h"

namespace fastrnn::cpu {

template <class Isa, class T>
struct StepExtras {
  using S = Simd<Isa, T>;
  using V = typename S::V;

  const Extras<T>& extras;
  int64_t s;                                 // -1 before the first step
  int64_t rows, rows_before, rows_after;     // that run at this step, the one before and the one after
  int64_t first, first_before, first_after;  // rows of the data that batch row 0 has then
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

  // What comes between this step of the row and the one before.
  FASTRNN_INLINE Cut cut_before(int64_t row) const {
    if (!extras.cuts || !(s == 0 || row < rows_before)) return kNoCut;
    return static_cast<Cut>(extras.cuts[first + row]);
  }
  // What comes between this step of the row and its next one.
  FASTRNN_INLINE Cut cut_after(int64_t row) const {
    if (!extras.cuts || row >= rows_after || !(s < 0 || row < rows)) return kNoCut;
    return static_cast<Cut>(extras.cuts[first_after + row]);
  }

  // h that the row's step started from, without the mask: K values.
  FASTRNN_INLINE const T* previous_h(int64_t row) const {
    if (cut_before(row) == kCutState) return extras.reset_h + row * recurrent;
    return row < rows_before ? output + (first_before + row) * output_stride : hx + row * recurrent;
  }

  // The share of its old value that each unit keeps.
  FASTRNN_INLINE V kept_h(int64_t row, int64_t unit, int lanes) const {
    if (!extras.kept_h) return S::broadcast(extras.share_h);
    return S::load(extras.kept_h + (first + row) * recurrent + unit, lanes);
  }
  FASTRNN_INLINE V kept_c(int64_t row, int64_t unit, int lanes) const {
    if (!extras.kept_c) return S::broadcast(extras.share_c);
    return S::load(extras.kept_c + (first + row) * hidden + unit, lanes);
  }

  // h_t of the row, given its candidate.
  FASTRNN_INLINE V zoned_h(int64_t row, int64_t unit, int lanes, V h) const {
    if (!extras.zones_h()) return h;
    return h + kept_h(row, unit, lanes) * (S::load(previous_h(row) + unit, lanes) - h);
  }
  FASTRNN_INLINE V zoned_c(int64_t row, int64_t unit, int lanes, V c, V c_prev) const {
    if (!extras.zones_c()) return c;
    return c + kept_c(row, unit, lanes) * (c_prev - c);
  }
  // The candidate of h_t, from h_t. Of a unit that keeps all of its old value any candidate will do: its gradient is 0.
  // Masks keep all or nothing. A candidate within h's rounding is 0: relu's derivative jumps there.
  FASTRNN_INLINE V candidate_h(int64_t row, int64_t unit, int lanes, V h) const {
    if (extras.kept_h || extras.share_h == T(0) || extras.share_h == T(1)) return h;
    constexpr T kEpsilon = std::numeric_limits<T>::epsilon(), kLeast = std::numeric_limits<T>::min();
    const V change = h - extras.share_h * S::load(previous_h(row) + unit, lanes), size = change < 0 ? -change : change;
    const V most = kEpsilon * Isa::at_least(h < 0 ? -h : h, S::broadcast(kLeast));
    return size <= most ? V{} : change * (T(1) / (T(1) - extras.share_h));
  }

  // What the next step's product takes of this step's h, or the first one's of hx.
  FASTRNN_INLINE V masked(int64_t row, int64_t unit, int lanes, V h) const {
    return extras.h_mask ? h * S::load(extras.h_mask + row * recurrent + unit, lanes) : h;
  }
};

}  // namespace fastrnn::cpu
