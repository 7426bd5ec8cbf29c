// The persistent path, forward. At every step a block multiplies h_{t-1} by the rows of w_hh that belong to its units,
// which it keeps on chip, applies their cells, and signals the blocks of its group of batch rows.
#pragma once

#include "../stationary/gemms.cuh"
#include "../stationary/stationary_cells.cuh"
#include "persistent_block.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath>
class PersistentForwardBlock {
  static constexpr int kUnits = kUnitsPerBlock;
  using A = Accumulator<T>;
  // With 64, nvcc spills for cells with four gates.
  using Gemm = StationaryGemmOf<T, kMath, Cell::kGates, 1, 48>;
  using Cells = ForwardCells<Cell, T, kUnits>;

 public:
  struct Shared {
    typename Gemm::Shared gemm;
    T* inputs;  // of the current tile and the next, double-buffered

    FASTRNN_INLINE Shared(const Dims& dims, SharedArena& arena)
        : gemm(dims.recurrent_size, arena), inputs(arena.take<T>(2 * Cells::kInputs)) {}
  };

  __device__ PersistentForwardBlock(const Forward<T>& call, uint32_t* flags, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        tiles_(call.dims.batch),
        exchange_(flags),
        cells_(call),
        inputs_(shared.inputs),
        gemm_(call.dims.recurrent_size, shared.gemm) {
    const auto weight = [&](int gate, int unit, int64_t column) {
      return p_.w_hh + (gate * hidden_ + place_.first_unit + unit) * hidden_ + column;
    };
    gemm_.load_weights(weight, 1);
  }

  __device__ void run() {
    int buffer = 0;
    cells_.fetch(0, tiles_.begin, inputs(buffer));
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      if (s > 0) exchange_.await(gemm_.begin(), gemm_.end(), s);
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile, buffer ^= 1) {
        multiply(s, tile);
        wait_for_copies<0>();
        __syncthreads();
        if (tile + 1 < tiles_.end) {
          cells_.fetch(s, tile + 1, inputs(buffer ^ 1));
        } else if (s + 1 < p_.steps.steps) {
          cells_.fetch(s + 1, tiles_.begin, inputs(buffer ^ 1));
        }
        finish(s, tile, inputs(buffer));
        __syncthreads();
      }
      exchange_.announce(s + 1);
    }
  }

 private:
  __device__ T* inputs(int buffer) const { return inputs_ + buffer * Cells::kInputs; }

  // The h_{t-1} that a row of step s starts from; null if the row does not run.
  __device__ const T* previous_h(int64_t s, int64_t row) const {
    if (row >= running_rows(p_.steps, s)) return nullptr;
    if (row >= running_rows(p_.steps, s - 1)) return p_.hx + row * hidden_;
    return p_.output + (first_row_of(p_.steps, s - 1) + row) * p_.output_stride;
  }

  __device__ void multiply(int64_t s, int64_t tile) const {
    gemm_.multiply([&](int row) { return previous_h(s, tile * kBatchRowsPerTile + row); },
                   [](int64_t column) { return column; });
  }

  __device__ void finish(int64_t s, int64_t tile, const T* inputs) const {
    const int64_t row = tile * kBatchRowsPerTile + place_.first_row, unit = place_.first_unit + place_.unit;
    if (row >= running_rows(p_.steps, s)) return;
    cells_.finish(
        s, row, inputs, [&](int gate) { return gemm_.sum(gate, place_.unit, place_.first_row); },
        [&] { return previous_h(s, row)[unit]; }, [&](int k) -> A& { return p_.cell[k][row * hidden_ + unit]; });
  }

  const Forward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace<kUnits> place_;
  const Tiles tiles_;
  const FlagExchange exchange_;
  const Cells cells_;
  T* const inputs_;
  Gemm gemm_;
};

template <class Cell, class T, MathMode kMath>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_forward(const __grid_constant__ StationaryParams<Forward<T>> params) {
  using Block = PersistentForwardBlock<Cell, T, kMath>;
  SharedArena arena(dynamic_shared());
  const Forward<T>& call = params.calls[blockIdx.z];
  const typename Block::Shared shared(call.dims, arena);
  Block(call, params.flags, shared).run();
}

}  // namespace fastrnn::cuda
