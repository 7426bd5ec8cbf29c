// Plain structs passed between the ops, which know torch, and the kernels, which do not.
//
// T steps, B batch, I input_size, H hidden_size, P proj_size, K the size of h (P with a projection, else H),
// G gates, C saved values (see cells/cell.h), N rows: the valid (step, batch) pairs of padded or packed data.
//
// T is the tensors' element type; A, the accumulator type, holds cell states (those beside h, H units each) and the
// gradients of states. They differ only for half types on a GPU, where A is float. W is the storage type of the
// weights' matrices; it differs from T only for bfloat16 and 8-bit integers on the CPU.
#pragma once

#include <cstdint>

#include "cells/activations.h"
#include "cells/states.h"

namespace fastrnn {

// A cell's place among PlainCells, and behind them ExtendedCells, of cells/list.h.
enum class CellKind : int {};

// Which batch rows run at which step, and where they are stored. One direction of one layer counts its steps s = 0, 1,
// ... in the order in which it runs them. Rows are sorted so that those running at a step are the first rows(s): this
// covers dense batches, packed sequences and lengths alike. Rows that join late start from hx, rows that end early
// leave hy.
struct Steps {
  int64_t steps;           // T
  int64_t batch;           // B
  const int64_t* sizes;    // (T) rows at each time t, or null: all of B
  const int64_t* offsets;  // (T) first row of each time t in packed data, or null: t * B
  bool reverse;            // runs from t = T - 1 down to 0
  // (T) as sizes and offsets, but in GPU memory, for kernels that run more than one step; else null. Where the host
  // does not know the sizes, it treats all B rows as running.
  const int64_t* device_sizes = nullptr;
  const int64_t* device_offsets = nullptr;

  FASTRNN_INLINE int64_t time(int64_t s) const { return reverse ? steps - 1 - s : s; }
  // 0 outside the sequence, so that a loop may ask for the step before the first and the one after the last.
  FASTRNN_INLINE int64_t rows(int64_t s) const {
    if (s < 0 || s >= steps) return 0;
    return sizes ? sizes[time(s)] : batch;
  }
  FASTRNN_INLINE int64_t offset(int64_t s) const {
    if (s < 0 || s >= steps) return 0;
    return offsets ? offsets[time(s)] : time(s) * batch;
  }
  // Rows that step s occupies in the data, running or padding.
  FASTRNN_INLINE int64_t stored_rows(int64_t s) const { return offsets ? sizes[time(s)] : batch; }
};

// Consecutive steps of a pass, whose rows are contiguous in the data.
struct Chunk {
  int64_t begin, end;          // steps s
  int64_t first_row, end_row;  // of the data
};

// Sizes that determine how much scratch a kernel needs.
struct Dims {
  int64_t batch, hidden_size, recurrent_size;  // B, H, K
  bool projected;
  int64_t input_size = 0;     // I, forward
  bool input_frozen = false;  // w_ih is packed ahead, too; see ForwardParams::frozen
};

// What happens to a row between two of its steps: its state is passed on; is replaced by the reset state; or is passed
// on, but no gradient flows back.
enum Cut : uint8_t { kNoCut, kCutState, kCutGradient };

// What a call adds to the plain recurrence of a direction; null or 0 means nothing added.
template <class T, class A = T>
struct Extras {
  const uint8_t* cuts;  // (N): applied before the row's step. A row that joins late has none before its first
  const T* reset_h;     // (B, K), where states are cut, and
  CellStates<const A*> reset_cell;  // (B, H)
  const T* h_mask;                  // (B, K): multiplies h_{t-1} on its way into w_hh
  // Zoneout: masks of the units that keep their old value (1) or not (0), (N, K) and (N, H), or the fraction that all
  // keep of it.
  const T* kept_h;
  CellStates<const T*> kept_cell;
  T share_h;
  CellStates<T> share_cell;

  // Of h and of the projection, for cells whose activation is chosen at run time.
  Activation activation, output_activation;

  FASTRNN_INLINE bool zones_h() const { return kept_h || share_h != T(0); }
  FASTRNN_INLINE bool zones_cell(int state) const { return kept_cell[state] || share_cell[state] != T(0); }
  FASTRNN_INLINE bool zones_any_cell(int count) const {
    for (int k = 0; k < count; ++k) {
      if (zones_cell(k)) return true;
    }
    return false;
  }
};

// What backward needs for them in addition.
template <class T, class A = T>
struct ExtraGrads {
  A* reset_h;                  // (B, K) and
  CellStates<A*> reset_cell;   // (B, H): accumulated into; null without reset states
  CellStates<const T*> cells;  // (N, cells_stride), H columns read: gradients of every step's cell states, or null
  int64_t cells_stride;        // H times the number of cell states and of directions
  A clip;                      // bound on a state's gradient as it passes from a step to the one before; or infinity
};

template <class T, class A = T, class W = T>
struct ForwardParams {
  Steps steps;
  Dims dims;
  const T* input;        // (N, I), which a time loop on the CPU multiplies by w_ih
  const W* w_ih;         // (G*H, I), if its plan says so; see Plan::input_steps
  T* saved;              // (N, saved_stride): out, if keep, the saved values; in, unless the time loop computes it,
                         // x W_ih^T in the first G*H columns. Null if neither
  int64_t saved_stride;  // C*H if keep, else G*H
  bool keep;             // backward will need saved values and cells
  const W* w_hh;         // (G*H, K)
  const W* w_hr;         // (P, H) or null
  const T* b_ih;         // (G*H) or null
  const T* b_hh;         // (G*H) or null
  const T* b_hr;         // (P) or null
  const T* scales_ih;    // (G*H): of each row of w_ih, if W has scales; so are
  const T* scales_hh;    // (G*H) and
  const T* scales_hr;    // (P) or null
  const T* per_unit_weights;   // (kPerUnitWeights, H) or null
  const T* hx;                 // (B, K)
  T* output;                   // (N, output_stride), K columns written
  int64_t output_stride;       // K times the number of directions
  T* hy;                       // (B, K) out; on a GPU it holds hx on entry
  CellStates<A*> cell;         // (B, H): in the initial, out the final cell states
  CellStates<A*> cells;        // (N, H): those after every step if keep, else null
  T* scratch;                  // forward_scratch() values
  T* frozen;                   // frozen_size() values that freeze() wrote, or null
  const Extras<T, A>* extras;  // null in a plain recurrence
};

template <class T, class A = T>
struct BackwardParams {
  Steps steps;
  Dims dims;
  const T* saved;              // (N, C*H), or null if the cell saves none
  CellStates<const A*> cells;  // (N, H)
  const T* w_hh;               // (G*H, K)
  const T* w_hr;               // (P, H) or null
  const T* per_unit_weights;
  const T* hx;              // (B, K)
  CellStates<const A*> cx;  // (B, H): the initial cell states
  const T* output;          // (N, output_stride), K columns read
  int64_t output_stride;
  const T* grad_output;  // (N, grad_output_stride) or null for zeros
  int64_t grad_output_stride;
  A* grad_h;                 // (B, K): in grad_hy, out grad_hx
  CellStates<A*> grad_cell;  // (B, H): in of the final, out of the initial cell states
  T* grad_saved;             // (N, C*H) out
  A* grad_per_unit_weights;  // (B, kPerUnitWeights * H): accumulated into; or null
  T* grad_projected;         // (N, P) out: the whole gradient of h_t; null without a projection
  T* operand;  // (N, H) out: left operand of the step's second GEMM, h before the projection or r * h_{t-1} of
               // a second-pass gate; null if there is no such GEMM
  T* scratch;  // backward_scratch() values
  const Extras<T, A>* extras;  // null in a plain recurrence, like
  const ExtraGrads<T, A>* extra_grads;
};

// A chunk of one direction, as a time loop runs it. params.saved (in backward params.grad_saved) points to the chunk's
// first row.
template <class T, class A = T, class W = T>
struct ForwardCall {
  ForwardParams<T, A, W> params;
  Chunk chunk;
};

template <class T, class A = T>
struct BackwardCall {
  BackwardParams<T, A> params;
  Chunk chunk;
  const T* after;  // the gradients of step chunk.end's saved values, if there is such a step
};

}  // namespace fastrnn
