// The persistent path, forward. At every step a block multiplies h_{t-1} by the rows of w_hh of its own units, which it
// keeps, finishes their cells, and tells the blocks of its group of batch rows.
#pragma once

#include "../cells/cell.h"
#include "numbers.cuh"
#include "persistent_block.cuh"
#include "persistent_product.cuh"

namespace fastrnn::cuda {

template <class T>
struct PersistentForwardParams {
  Forward<T> call;
  uint32_t* flags;  // (batch_groups, unit_blocks), zero
};

template <class Cell, class T>
class PersistentForwardBlock {
  using A = Accumulator<T>;
  using Product = StationaryProduct<T, Cell::kGates>;

 public:
  struct Shared {
    typename Product::Shared product;
    T* x;  // two buffers of (G, 16 rows, 16 units): for the tile at hand and the next one

    FASTRNN_INLINE Shared(const Dims& dims, Carver& carver)
        : product(dims.recurrent_size, carver), x(carver.take<T>(2 * Cell::kGates * kTileValues)) {}
  };

  __device__ PersistentForwardBlock(const Forward<T>& call, uint32_t* flags, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        tiles_(call.dims.batch),
        exchange_(flags),
        x_(shared.x),
        product_(call.dims.recurrent_size, shared.product) {
    product_.load_weights([&](int gate, int unit, int64_t column) {
      return load_pair(p_.w_hh + (gate * hidden_ + place_.first_unit + unit) * hidden_ + column);
    });
    for (int gate = 0; gate < Cell::kGates; ++gate) load_bias(gate);
  }

  __device__ void run() {
    int buffer = 0;
    fetch(0, tiles_.begin, buffer);
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      if (s > 0) exchange_.await(product_.begin(), product_.end(), s);
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile, buffer ^= 1) {
        multiply(s, tile);
        wait_for_copies<0>();
        __syncthreads();
        if (tile + 1 < tiles_.end) {
          fetch(s, tile + 1, buffer ^ 1);
        } else if (s + 1 < p_.steps.steps) {
          fetch(s + 1, tiles_.begin, buffer ^ 1);
        }
        finish(s, tile, x_tile(buffer));
        __syncthreads();
      }
      exchange_.announce(s + 1);
    }
  }

 private:
  __device__ void load_bias(int gate) {
    x_bias_[gate] = r_bias_[gate] = 0;
    if (!p_.b_ih) return;
    const int64_t at = gate * hidden_ + place_.first_unit + place_.unit;
    (gate == Cell::kApartBias ? x_bias_ : r_bias_)[gate] += widen(p_.b_ih[at]);
    r_bias_[gate] += widen(p_.b_hh[at]);
  }

  __device__ T* x_tile(int buffer) const { return x_ + buffer * (Cell::kGates * kTileValues); }

  // The row of h_{t-1} that a row of step s starts from; null if it does not run.
  __device__ const T* previous_h(int64_t s, int64_t row) const {
    if (row >= running_rows(p_.steps, s)) return nullptr;
    if (row >= running_rows(p_.steps, s - 1)) return p_.hx + row * hidden_;
    return p_.output + (p_.steps.offset(s - 1) + row) * p_.output_stride;
  }

  __device__ void multiply(int64_t s, int64_t tile) const {
    const T* rows[kRowTiles];
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      rows[half] = previous_h(s, tile * kBatchRowsPerTile + half * kMmaRows + place_.lane_row);
    }
    product_.multiply(rows, [](int64_t column) { return column; });
  }

  __device__ void fetch(int64_t s, int64_t tile, int buffer) const {
    const int64_t first_row = tile * kBatchRowsPerTile, running = running_rows(p_.steps, s);
    const T* x = p_.channels + (p_.steps.offset(s) + first_row) * p_.channel_stride + place_.first_unit;
#pragma unroll
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      fetch_tile(gate, x_tile(buffer) + gate * kTileValues, p_.w_hh, [&](int row) {
        return first_row + row < running ? x + row * p_.channel_stride + gate * hidden_ : nullptr;
      });
    }
    commit_copies();
  }

  __device__ void finish(int64_t s, int64_t tile, const T* x_of_tile) const {
    const int64_t row = tile * kBatchRowsPerTile + place_.row, unit = place_.first_unit + place_.unit;
    if (row >= running_rows(p_.steps, s)) return;
    A x[Cell::kGates], r[Cell::kGates];
#pragma unroll
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      x[gate] = widen(x_of_tile[gate * kTileValues + place_.row * kUnitsPerBlock + place_.unit]) + x_bias_[gate];
      r[gate] = product_.sum(gate, place_.unit, place_.row) + r_bias_[gate];
    }
    const int64_t at = p_.steps.offset(s) + row, state = row * hidden_ + unit;
    Step<A, Cell::kChannels> step;
    if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(previous_h(s, row)[unit]);
    if constexpr (Cell::kHasCellState) step.c_prev = p_.cell[state];
    Cell::forward(x, r, step);
    if (Cell::kKeepsChannels && p_.keep) {
      T* channels = p_.channels + at * p_.channel_stride + unit;
#pragma unroll
      for (int c = 0; c < Cell::kChannels; ++c) channels[c * hidden_] = narrow<T>(step.channels[c]);
    }
    if constexpr (Cell::kHasCellState) {
      p_.cell[state] = step.c;
      if (p_.keep) p_.cells[at * hidden_ + unit] = step.c;
    }
    const T h = narrow<T>(step.h);
    p_.output[at * p_.output_stride + unit] = h;
    if (row >= running_rows(p_.steps, s + 1)) p_.hy[state] = h;
  }

  const Forward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace place_;
  const Tiles tiles_;
  const Exchange exchange_;
  T* const x_;
  Product product_;
  A x_bias_[Cell::kGates], r_bias_[Cell::kGates];
};

template <class Cell, class T>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_forward(const __grid_constant__ PersistentForwardParams<T> params) {
  using Block = PersistentForwardBlock<Cell, T>;
  Carver carver(dynamic_shared());
  const typename Block::Shared shared(params.call.dims, carver);
  Block(params.call, params.flags, shared).run();
}

}  // namespace fastrnn::cuda
