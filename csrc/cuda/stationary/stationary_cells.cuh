// The cells of a block's units, a tile of batch rows at a time: what a kernel that keeps w_hh on the chip does at a
// step besides the GEMM. A step's inputs are prefetched into shared memory.
#pragma once

#include "../../cells/cell.h"
#include "../common/layout.h"
#include "../common/numbers.cuh"
#include "stationary_tile.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, int kUnits>
class ForwardCells {
  using A = Accumulator<T>;

 public:
  static constexpr int kInputs = Cell::kGates * kTileValues<kUnits>;  // values per tile that fetch() copies

  __device__ explicit ForwardCells(const Forward<T>& call) : p_(call), hidden_(call.dims.hidden_size) {
    for (int gate = 0; gate < Cell::kGates; ++gate) load_bias(gate);
  }

  // Starts to copy a tile's x W_ih^T of a step, (G, 16, kUnits).
  __device__ void fetch(const StepRows& rows, int64_t tile, T* inputs) const {
    const int64_t first_row = tile * kBatchRowsPerTile;
    const T* x = p_.saved + (rows.first + first_row) * p_.saved_stride + place_.first_unit;
#pragma unroll
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      fetch_tile<kUnits>(gate, inputs + gate * kTileValues<kUnits>, p_.w_hh, [&](int row) {
        return first_row + row < rows.running ? x + row * p_.saved_stride + gate * hidden_ : nullptr;
      });
    }
    commit_copies();
  }

  using Done = Step<A, Cell::kSavedValues>;

  // The step of a running row, for the thread's unit. sum(gate): result of the recurrent GEMM; h_prev, cell: the unit's
  // own before the step.
  template <class Sum>
  __device__ Done run(int64_t row, const T* inputs, const Sum& sum, T h_prev, const CellStates<A>& cell) const {
    const int in_tile = static_cast<int>(row % kBatchRowsPerTile) * kUnits + place_.unit;
    A x[Cell::kGates], r[Cell::kGates];
#pragma unroll
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      x[gate] = widen(inputs[gate * kTileValues<kUnits> + in_tile]) + x_bias_[gate];
      r[gate] = sum(gate) + r_bias_[gate];
    }
    Done step{};
    if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(h_prev);
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) step.cell_prev[k] = cell[k];
    Cell::forward(x, r, step);
    return step;
  }

  // Stores h_t, which other blocks may wait for.
  __device__ void publish(const RowsAround& rows, int64_t row, const Done& step) const {
    const int64_t unit = place_.first_unit + place_.unit;
    const T h = narrow<T>(step.h);
    p_.output[(rows.now.first + row) * p_.output_stride + unit] = h;
    if (row >= rows.after.running) p_.hy[row * hidden_ + unit] = h;
  }

  // Stores what backward needs.
  __device__ void keep(const StepRows& rows, int64_t row, const Done& step) const {
    if (!p_.keep) return;
    const int64_t unit = place_.first_unit + place_.unit, at = rows.first + row;
    if constexpr (Cell::kReadsSaved) {
      T* const saved = p_.saved + at * p_.saved_stride + unit;
#pragma unroll
      for (int k = 0; k < Cell::kSavedValues; ++k) saved[k * hidden_] = narrow<T>(step.saved[k]);
    }
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) p_.cells[k][at * hidden_ + unit] = step.cell[k];
  }

  // The results of the block's units and tiles, and what backward reads of them: it may be under way before the host
  // learns of it.
  __device__ void fill_with_nan(const Tiles& tiles) const {
    Done nan{};
    nan.h = kNan<A>;
    for (A& value : nan.saved) value = kNan<A>;
    for (int k = 0; k < Cell::kCellStates; ++k) nan.cell[k] = kNan<A>;
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      const RowsAround rows(p_.steps, s);
      place_.for_rows(tiles, rows.now.running, [&](int64_t row) {
        publish(rows, row, nan);
        keep(rows.now, row, nan);
      });
    }
    place_.for_rows(tiles, p_.dims.batch, [&](int64_t row) {
      const int64_t state = row * hidden_ + place_.first_unit + place_.unit;
      p_.hy[state] = narrow<T>(kNan<A>);
      for (int k = 0; k < Cell::kCellStates; ++k) p_.cell[k][state] = kNan<A>;
    });
  }

 private:
  __device__ void load_bias(int gate) {
    x_bias_[gate] = r_bias_[gate] = 0;
    if (!p_.b_ih) return;
    const int64_t at = gate * hidden_ + place_.first_unit + place_.unit;
    (has_separate_biases<Cell>(gate) ? x_bias_ : r_bias_)[gate] += widen(p_.b_ih[at]);
    r_bias_[gate] += widen(p_.b_hh[at]);
  }

  const Forward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace<kUnits> place_;
  A x_bias_[Cell::kGates], r_bias_[Cell::kGates];
};

template <class Cell, class T, int kUnits>
class BackwardCells {
  using A = Accumulator<T>;

 public:
  // What forward left for one tile at one step, (16, kUnits) each; null if the cell does not read it.
  struct Inputs {
    T *saved = nullptr, *grad_output, *h = nullptr, *h_prev = nullptr;
    CellStates<A*> cell{}, cell_prev{};

    FASTRNN_INLINE explicit Inputs(SharedArena& arena) : grad_output(arena.take<T>(kTileValues<kUnits>)) {
      if (Cell::kReadsSaved) saved = arena.take<T>(Cell::kSavedValues * kTileValues<kUnits>);
      if (Cell::kReadsH) h = arena.take<T>(kTileValues<kUnits>);
      if (Cell::kReadsPreviousH) h_prev = arena.take<T>(kTileValues<kUnits>);
      for (int k = 0; k < Cell::kCellStates; ++k) {
        cell[k] = arena.take<A>(kTileValues<kUnits>);
        cell_prev[k] = arena.take<A>(kTileValues<kUnits>);
      }
    }
  };

  __device__ explicit BackwardCells(const Backward<T>& call) : p_(call), hidden_(call.dims.hidden_size) {}

  // Starts to copy what a tile's step reads.
  __device__ void fetch(const RowsAround& rows, int64_t tile, const Inputs& to) const {
    const int64_t first_row = tile * kBatchRowsPerTile, unit = place_.first_unit;
    const int running = rows.now.running, before = rows.before.running;
    const int64_t at = rows.now.first + first_row, at_before = rows.before.first + first_row;
    const auto get = [&](int turn, auto* tile_values, auto&& address) {
      fetch_tile<kUnits>(turn, tile_values, p_.w_hh,
                         [&](int row) { return first_row + row < running ? address(row) + unit : nullptr; });
    };
    int turn = 0;
    if (p_.grad_output) {
      get(turn++, to.grad_output, [&](int row) { return p_.grad_output + (at + row) * p_.grad_output_stride; });
    }
    if constexpr (Cell::kReadsSaved) {
#pragma unroll
      for (int c = 0; c < Cell::kSavedValues; ++c) {
        get(turn++, to.saved + c * kTileValues<kUnits>,
            [&](int row) { return p_.saved + ((at + row) * Cell::kSavedValues + c) * hidden_; });
      }
    }
    if constexpr (Cell::kReadsH) {
      get(turn++, to.h, [&](int row) { return p_.output + (at + row) * p_.output_stride; });
    }
    if constexpr (Cell::kReadsPreviousH) {
      get(turn++, to.h_prev, [&](int row) {
        return first_row + row < before ? p_.output + (at_before + row) * p_.output_stride
                                        : p_.hx + (first_row + row) * hidden_;
      });
    }
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) {
      get(turn++, to.cell[k], [&](int row) { return p_.cells[k] + (at + row) * hidden_; });
      get(turn++, to.cell_prev[k], [&](int row) {
        return first_row + row < before ? p_.cells[k] + (at_before + row) * hidden_
                                        : p_.cx[k] + (first_row + row) * hidden_;
      });
    }
    commit_copies();
  }

  // The step of a row, for the thread's unit. sum(): result of the GEMM with the next step's gradients, if the row ran
  // there; grad_h and grad_cell(k) as in BackwardParams, for this unit; write(slot, value) receives the gradients of
  // the saved values of a running row. Step -1 only passes the gradients of the rows that have begun on to hx.
  template <class Sum, class CellState, class Write>
  __device__ void finish(const RowsAround& rows, int64_t row, const Inputs& inputs, const Sum& sum, A& grad_h,
                         const CellState& grad_cell, const Write& write) const {
    const bool runs_now = row < rows.now.running, ran_after = row < rows.after.running;
    if (!runs_now && !ran_after) return;
    A dh = ran_after ? sum() : A{0};
    if (Cell::kCarriesH || !ran_after) dh += grad_h;
    if (!runs_now) {
      grad_h = dh;
      return;
    }
    const int64_t unit = place_.first_unit + place_.unit;
    const int in_tile = static_cast<int>(row % kBatchRowsPerTile) * kUnits + place_.unit;
    if (p_.grad_output) dh += widen(inputs.grad_output[in_tile]);
    Step<A, Cell::kSavedValues> step;
    StepGrad<A, Cell::kSavedValues, Cell::kPerUnitWeights> grad;
    grad.h = dh;
    if constexpr (Cell::kReadsSaved) {
#pragma unroll
      for (int c = 0; c < Cell::kSavedValues; ++c) {
        step.saved[c] = widen(inputs.saved[c * kTileValues<kUnits> + in_tile]);
      }
    }
    if constexpr (Cell::kReadsH) step.h = widen(inputs.h[in_tile]);
    if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(inputs.h_prev[in_tile]);
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) {
      step.cell[k] = inputs.cell[k][in_tile];
      step.cell_prev[k] = inputs.cell_prev[k][in_tile];
      grad.cell[k] = grad_cell(k);
    }
    Cell::backward(step, grad);
    T* saved = p_.grad_saved + (rows.now.first + row) * Cell::kSavedValues * hidden_ + unit;
#pragma unroll
    for (int c = 0; c < Cell::kSavedValues; ++c) {
      const T value = narrow<T>(grad.saved[c]);
      saved[c * hidden_] = value;
      write(c, value);
    }
    if constexpr (Cell::kCarriesH) grad_h = grad.h;
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) grad_cell(k) = grad.cell[k];
  }

  // The gradients of the block's units and tiles.
  __device__ void fill_with_nan(const Tiles& tiles) const {
    const int64_t unit = place_.first_unit + place_.unit;
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      place_.for_rows(tiles, running_rows(p_.steps, s), [&](int64_t row) {
        T* const saved = p_.grad_saved + (first_row_of(p_.steps, s) + row) * Cell::kSavedValues * hidden_ + unit;
        for (int c = 0; c < Cell::kSavedValues; ++c) saved[c * hidden_] = narrow<T>(kNan<A>);
      });
    }
    place_.for_rows(tiles, p_.dims.batch, [&](int64_t row) {
      p_.grad_h[row * hidden_ + unit] = kNan<A>;
      for (int k = 0; k < Cell::kCellStates; ++k) p_.grad_cell[k][row * hidden_ + unit] = kNan<A>;
    });
  }

 private:
  const Backward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace<kUnits> place_;
};

}  // namespace fastrnn::cuda
