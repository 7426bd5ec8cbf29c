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
    T* inputs;  // of a tile

    FASTRNN_INLINE Shared(const Dims& dims, SharedArena& arena)
        : gemm(dims.recurrent_size, arena), inputs(arena.take<T>(Cells::kInputs)) {}
  };

  __device__ PersistentForwardBlock(const Forward<T>& call, uint32_t* flags, const WaitLimit& limit,
                                    const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        tiles_(call.dims.batch),
        exchange_(flags, limit),
        cells_(call),
        inputs_(shared.inputs),
        gemm_(call.dims.recurrent_size, shared.gemm) {
    const auto weight = [&](int gate, int unit, int64_t column) {
      return p_.w_hh + (gate * hidden_ + place_.first_unit + unit) * hidden_ + column;
    };
    gemm_.load_weights(weight, 1);
  }

  __device__ void run() {
    RowsAround rows(p_.steps, 0);
    cells_.fetch(rows.now, tiles_.begin, inputs_);
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      if (s > 0 && !exchange_.await(s)) return give_up();
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
        const int64_t row = tile * kBatchRowsPerTile + place_.first_row;
        const bool runs = row < rows.now.running, is_last = tile + 1 == tiles_.end;
        const State state = load_state(rows, row, runs);
        multiply(rows, tile);
        wait_for_copies<0>();
        __syncthreads();
        typename Cells::Done done{};
        if (runs) {
          done = cells_.run(
              row, inputs_, [&](int gate) { return gemm_.sum(gate, place_.unit, place_.first_row); }, state.h,
              state.cell);
          cells_.publish(rows, row, done);
        }
        __syncthreads();
        if (is_last) exchange_.announce(s + 1);
        // What nobody waits for.
        if (runs) keep(rows.now, row, done);
        if (!is_last) {
          cells_.fetch(rows.now, tile + 1, inputs_);
        } else if (s + 1 < p_.steps.steps) {
          cells_.fetch(rows.after, tiles_.begin, inputs_);
        }
      }
      rows.go_forward(p_.steps, s + 1);
    }
  }

 private:
  // What a step of a row starts from, for the thread's unit.
  struct State {
    T h;
    CellStates<A> cell;
  };

  __device__ void give_up() const {
    wait_for_copies<0>();
    cells_.fill_with_nan(tiles_);
  }

  __device__ int64_t own(int64_t row) const { return row * hidden_ + place_.first_unit + place_.unit; }

  // Loaded before the GEMM, which takes longer.
  __device__ State load_state(const RowsAround& rows, int64_t row, bool runs) const {
    State state{};
    if (!runs) return state;
    if constexpr (Cell::kReadsPreviousH) state.h = previous_h(rows.before, row)[place_.first_unit + place_.unit];
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) state.cell[k] = p_.cell[k][own(row)];
    return state;
  }

  __device__ void keep(const StepRows& rows, int64_t row, const typename Cells::Done& done) const {
#pragma unroll
    for (int k = 0; k < Cell::kCellStates; ++k) p_.cell[k][own(row)] = done.cell[k];
    cells_.keep(rows, row, done);
  }

  // The h_{t-1} that a running row starts from.
  __device__ const T* previous_h(const StepRows& before, int64_t row) const {
    if (row >= before.running) return p_.hx + row * hidden_;
    return p_.output + (before.first + row) * p_.output_stride;
  }

  // Rows that do not run multiply what others read anyway: nobody asks for their sums.
  __device__ void multiply(const RowsAround& rows, int64_t tile) const {
    const int64_t first_row = tile * kBatchRowsPerTile, last_row = rows.now.running - 1;
    const auto row_to_read = [&](int row) { return first_row + row <= last_row ? first_row + row : first_row; };
    const bool any = first_row <= last_row;
    gemm_.multiply([&](int row) { return any ? previous_h(rows.before, row_to_read(row)) : p_.hx; },
                   [](int column) { return column; });
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
  Block(call, params.flags, params.wait, shared).run();
}

}  // namespace fastrnn::cuda
