// The persistent path, backward (BPTT). At every step a block multiplies the next step's gate gradients by the columns
// of w_hh that belong to its units, which it keeps on chip, applies the derivatives of their cells, and signals the
// blocks of its group.
//
// This way each block reads all gates' gradients. With kSplit > 1, that many blocks form a cluster and split the work:
// a block multiplies its share of the gradients by the columns of w_hh of all their units, and they exchange partial
// sums of dh.
#pragma once

#include "../stationary/gemms.cuh"
#include "../stationary/stationary_cells.cuh"
#include "persistent_block.cuh"
#include "split_sums.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath, int kSplit>
class PersistentBackwardBlock {
  static constexpr int kUnits = kUnitsPerBlock;
  using A = Accumulator<T>;
  using Gemm = StationaryGemmOf<T, kMath, kSplit, 1, 64>;
  using Sums = SplitSums<kSplit>;
  using Cells = BackwardCells<Cell, T, kUnits>;
  using Inputs = typename Cells::Inputs;

 public:
  struct Shared {
    typename Gemm::Shared gemm;
    typename Sums::Shared sums;
    char* inputs;  // of the current tile and the next, double-buffered

    FASTRNN_INLINE Shared(const Dims& dims, SharedArena& arena)
        : gemm(depth(dims), arena), sums(arena), inputs(arena.take<char>(2 * Inputs(SharedArena(nullptr)).bytes)) {}
  };

  __device__ PersistentBackwardBlock(const Backward<T>& call, uint32_t* flags, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        last_(call.steps.steps - 1),
        first_gate_row_(rank() * depth(call.dims)),
        tiles_(call.dims.batch),
        exchange_(flags),
        cells_(call),
        inputs_(shared.inputs),
        gemm_(depth(call.dims), shared.gemm),
        sums_(shared.sums, gemm_number(-2, tiles_.begin)) {
    const T* const weights = p_.w_hh + first_gate_row_ * hidden_ + place_.first_unit - rank() * kUnits;
    const auto weight = [&](int block, int unit, int64_t row) {
      return weights + row * hidden_ + block * kUnits + unit;
    };
    gemm_.load_weights(weight, hidden_);
  }

  __device__ void run() {
    int buffer = 0;
    cells_.fetch(last_, tiles_.begin, inputs(buffer));
    // s = -1 only passes the gradients of the first step's rows on to hx.
    for (int64_t s = last_; s >= -1; --s) {
      const int64_t steps_done = last_ - s;
      if (steps_done > 0) await_gradients(steps_done);
      for (int64_t turn = tiles_.begin; turn < tiles_.end + Sums::kLag; ++turn) {
        const int64_t tile = turn - Sums::kLag;
        if (turn < tiles_.end) multiply(s, turn);
        wait_for_copies<0>();
        __syncthreads();
        if (turn < tiles_.end) sums_.send(gemm_, gemm_number(s, turn));
        if (tile >= tiles_.begin) {
          if (s >= 0 && tile + 1 < tiles_.end) {
            cells_.fetch(s, tile + 1, inputs(buffer ^ 1));
          } else if (s > 0) {
            cells_.fetch(s - 1, tiles_.begin, inputs(buffer ^ 1));
          }
          sums_.await(gemm_number(s, tile));
          finish(s, tile, inputs(buffer));
          buffer ^= 1;
        }
        __syncthreads();
        if (tile >= tiles_.begin) sums_.received(gemm_number(s, tile));
      }
      exchange_.announce(steps_done + 1);
    }
  }

 private:
  // Rows of w_hh that one block multiplies.
  static FASTRNN_INLINE int64_t depth(const Dims& dims) { return Cell::kGates * dims.hidden_size / kSplit; }

  static __device__ int rank() { return kSplit > 1 ? cluster_rank() : 0; }

  __device__ Inputs inputs(int buffer) const {
    return Inputs(SharedArena(inputs_ + buffer * Inputs(SharedArena(nullptr)).bytes));
  }

  // GEMMs are numbered over the whole sequence.
  __device__ int64_t gemm_number(int64_t s, int64_t tile) const {
    return (last_ - s) * (tiles_.end - tiles_.begin) + tile - tiles_.begin;
  }

  // Offset, among a batch row's saved values, of the gradient for a row of w_hh.
  __device__ int64_t slot_offset(int64_t gate_row) const {
    int64_t shift = 0;
#pragma unroll
    for (int gate = 1; gate < Cell::kGates; ++gate) {
      if (gate_row >= gate * hidden_) shift = (Cell::recurrent_slot(gate) - gate) * hidden_;
    }
    return gate_row + shift;
  }

  // Waits for the gradients that this warp reads.
  __device__ void await_gradients(int64_t steps_done) const {
    exchange_.await(first_gate_row_ + gemm_.begin(), first_gate_row_ + gemm_.end(), steps_done);
  }

  __device__ void multiply(int64_t s, int64_t tile) const {
    const int64_t after = running_rows(p_.steps, s + 1), first_row = tile * kBatchRowsPerTile;
    const T* const grads = p_.grad_saved + (first_row_of(p_.steps, s + 1) + first_row) * Cell::kSavedValues * hidden_;
    gemm_.multiply(
        [&](int row) { return first_row + row < after ? grads + row * Cell::kSavedValues * hidden_ : nullptr; },
        [&](int64_t row) { return slot_offset(first_gate_row_ + row); });
  }

  __device__ void finish(int64_t s, int64_t tile, const Inputs& inputs) const {
    const int64_t row = tile * kBatchRowsPerTile + place_.first_row;
    if (row >= p_.dims.batch) return;
    const int64_t state = row * hidden_ + place_.first_unit + place_.unit;
    cells_.finish(
        s, row, inputs, [&] { return sums_.sum(gemm_, gemm_number(s, tile), place_.unit, place_.first_row); },
        p_.grad_h[state], [&](int k) -> A& { return p_.grad_cell[k][state]; }, [](int, T) {});
  }

  const Backward<T>& p_;
  const int64_t hidden_, last_, first_gate_row_;
  const ThreadPlace<kUnits> place_;
  const Tiles tiles_;
  const FlagExchange exchange_;
  const Cells cells_;
  char* const inputs_;
  Gemm gemm_;
  const Sums sums_;
};

template <class Cell, class T, MathMode kMath, int kSplit>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_backward(const __grid_constant__ StationaryParams<Backward<T>> params) {
  if constexpr (kSplit == 1 || FASTRNN_HAS_CLUSTERS) {
    using Block = PersistentBackwardBlock<Cell, T, kMath, kSplit>;
    SharedArena arena(dynamic_shared());
    const Backward<T>& call = params.calls[blockIdx.z];
    const typename Block::Shared shared(call.dims, arena);
    Block(call, params.flags, shared).run();
  }
}

}  // namespace fastrnn::cuda
