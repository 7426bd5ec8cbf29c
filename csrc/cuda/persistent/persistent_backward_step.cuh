// What both persistent kernels of backward do at a step: multiply the next step's gate gradients by columns of w_hh
// that the block keeps on chip, and apply the derivatives of its units' cells.
#pragma once

#include "../stationary/gemms.cuh"
#include "../stationary/stationary_cells.cuh"
#include "persistent_block.cuh"

namespace fastrnn::cuda {

// With kSplit > 1, that many blocks form a cluster and split the depth of the GEMM: a block multiplies its share of the
// gate gradients by the columns of w_hh of all their units.
template <class Cell, class T, MathMode kMath, int kSplit>
class PersistentBackwardStep {
  static constexpr int kUnits = kUnitsPerBlock;
  using Cells = BackwardCells<Cell, T, kUnits>;

 public:
  using A = Accumulator<T>;
  // With 64, nvcc spills for TF32 of four gates on sm_80.
  using Gemm = StationaryGemmOf<T, kMath, kSplit, 1, std::is_same_v<T, float> && kSplit == 1 ? 60 : 64>;
  using Inputs = typename Cells::Inputs;

  struct Shared {
    typename Gemm::Shared gemm;
    Inputs inputs;  // of a tile

    FASTRNN_INLINE Shared(const Dims& dims, SharedArena& arena) : gemm(depth(dims), arena), inputs(arena) {}
  };

  // What a row has been passed back, for the thread's unit.
  struct State {
    A grad_h;
    CellStates<A> grad_cell;
  };

  __device__ PersistentBackwardStep(const Backward<T>& call, const Shared& shared)
      : tiles(call.dims.batch),
        last(call.steps.steps - 1),
        p_(call),
        hidden_(call.dims.hidden_size),
        first_gate_row_(rank() * depth(call.dims)),
        cells_(call),
        inputs_(shared.inputs),
        gemm_(depth(call.dims), shared.gemm) {
    const T* const weights = p_.w_hh + first_gate_row_ * hidden_ + place.first_unit - rank() * kUnits;
    const auto weight = [&](int block, int unit, int64_t row) {
      return weights + row * hidden_ + block * kUnits + unit;
    };
    gemm_.load_weights(weight, hidden_);
  }

  // Starts to copy what a tile reads.
  __device__ void fetch(const RowsAround& rows, int64_t tile) const { cells_.fetch(rows, tile, inputs_); }

  // Goes from step s to the one before it.
  __device__ void go_back(int64_t s, RowsAround& rows) const {
    rows.go_back(p_.steps, s - 1);
    if (s > 0) fetch(rows, tiles.begin);
  }

  __device__ RowsAround last_rows() const { return {p_.steps, last}; }

  // Loaded before the GEMM, which takes longer.
  __device__ State load_state(int64_t tile) const {
    State state{};
    const int64_t row = own_row(tile);
    if (row >= p_.dims.batch) return state;
    state.grad_h = p_.grad_h[own(row)];
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) state.grad_cell[k] = p_.grad_cell[k][own(row)];
    return state;
  }

  // Rows that did not run at the next step multiply what others read anyway: nobody asks for their sums.
  __device__ void multiply(const StepRows& after, int64_t tile) const {
    const int64_t first_row = tile * kBatchRowsPerTile;
    const T* const grads = p_.grad_saved + (after.first + first_row) * Cell::kSavedValues * hidden_;
    const T* const idle = first_row < after.running ? grads : p_.w_hh;
    gemm_.multiply(
        [&](int row) { return first_row + row < after.running ? grads + row * Cell::kSavedValues * hidden_ : idle; },
        [&](int row) { return slot_offset(static_cast<int>(first_gate_row_) + row); });
  }

  // sum(): the sum of the GEMM for the thread's row and unit.
  template <class Sum>
  __device__ void finish(const RowsAround& rows, int64_t tile, State state, const Sum& sum) const {
    const int64_t row = own_row(tile);
    if (row >= p_.dims.batch) return;
    cells_.finish(
        rows, row, inputs_, sum, state.grad_h, [&](int k) -> A& { return state.grad_cell[k]; }, [](int, T) {});
    p_.grad_h[own(row)] = state.grad_h;
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) p_.grad_cell[k][own(row)] = state.grad_cell[k];
  }

  __device__ void give_up() const {
    wait_for_copies<0>();
    cells_.fill_with_nan(tiles);
  }

  __device__ const Gemm& gemm() const { return gemm_; }

  const ThreadPlace<kUnits> place{};
  const Tiles tiles;
  const int64_t last;  // step

 private:
  // Rows of w_hh that one block multiplies.
  static FASTRNN_INLINE int64_t depth(const Dims& dims) { return Cell::kGates * dims.hidden_size / kSplit; }

  static __device__ int rank() { return kSplit > 1 ? cluster_rank() : 0; }

  __device__ int64_t own_row(int64_t tile) const { return tile * kBatchRowsPerTile + place.first_row; }
  __device__ int64_t own(int64_t row) const { return row * hidden_ + place.first_unit + place.unit; }

  // Offset, among a batch row's saved values, of the gradient for a row of w_hh.
  __device__ int slot_offset(int gate_row) const {
    const int hidden = static_cast<int>(hidden_);
    int shift = 0;
#pragma unroll
    for (int gate = 1; gate < Cell::kGates; ++gate) {
      if (gate_row >= gate * hidden) shift = (Cell::recurrent_slot(gate) - gate) * hidden;
    }
    return gate_row + shift;
  }

  const Backward<T>& p_;
  const int64_t hidden_, first_gate_row_;
  const Cells cells_;
  const Inputs& inputs_;
  Gemm gemm_;
};

}  // namespace fastrnn::cuda
