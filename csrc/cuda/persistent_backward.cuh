// The persistent path, backward (BPTT). At every step a block multiplies the next step's gate gradients by the columns
// of w_hh of its own units, which it keeps, takes the derivatives of their cells, and tells the blocks of its group.
#pragma once

#include "../cells/cell.h"
#include "numbers.cuh"
#include "persistent_block.cuh"
#include "persistent_product.cuh"

namespace fastrnn::cuda {

template <class T>
struct PersistentBackwardParams {
  Backward<T> call;
  uint32_t* flags;  // (batch_groups, unit_blocks), zero
};

template <class Cell, class T>
class PersistentBackwardBlock {
  using A = Accumulator<T>;
  using Product = StationaryProduct<T, 1>;

  // What forward left of one tile at one step, (16 rows, 16 units) each; null where the cell does not read it.
  struct Inputs {
    T *channels = nullptr, *grad_output, *h = nullptr, *h_prev = nullptr;
    A *c = nullptr, *c_prev = nullptr;
    int64_t bytes;

    FASTRNN_INLINE explicit Inputs(Carver&& carver) : grad_output(carver.take<T>(kTileValues)) {
      if (Cell::kKeepsChannels) channels = carver.take<T>(Cell::kChannels * kTileValues);
      if (Cell::kReadsH) h = carver.take<T>(kTileValues);
      if (Cell::kReadsPreviousH) h_prev = carver.take<T>(kTileValues);
      if (Cell::kHasCellState) c = carver.take<A>(kTileValues);
      if (Cell::kHasCellState) c_prev = carver.take<A>(kTileValues);
      bytes = carver.used();
    }
  };

 public:
  struct Shared {
    typename Product::Shared product;
    char* inputs;  // of the tile at hand and of the next one

    FASTRNN_INLINE Shared(const Dims& dims, Carver& carver)
        : product(Cell::kGates * dims.hidden_size, carver),
          inputs(carver.take<char>(2 * Inputs(Carver(nullptr)).bytes)) {}
  };

  __device__ PersistentBackwardBlock(const Backward<T>& call, uint32_t* flags, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        tiles_(call.dims.batch),
        exchange_(flags),
        inputs_(shared.inputs),
        product_(Cell::kGates * call.dims.hidden_size, shared.product) {
    product_.load_weights([&](int, int unit, int64_t gate_row) {
      return gather_pair(p_.w_hh + gate_row * hidden_ + place_.first_unit + unit, hidden_);
    });
  }

  __device__ void run() {
    int buffer = 0;
    const int64_t last = p_.steps.steps - 1;
    fetch(last, tiles_.begin, buffer);
    // s = -1 only hands the gradients of the first step's rows on to hx.
    for (int64_t s = last; s >= -1; --s) {
      const int64_t steps_done = last - s;
      if (steps_done > 0) exchange_.await(product_.begin(), product_.end(), steps_done);
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile, buffer ^= 1) {
        multiply(s, tile);
        wait_for_copies<0>();
        __syncthreads();
        if (s >= 0 && tile + 1 < tiles_.end) {
          fetch(s, tile + 1, buffer ^ 1);
        } else if (s > 0) {
          fetch(s - 1, tiles_.begin, buffer ^ 1);
        }
        finish(s, tile, inputs(buffer));
        __syncthreads();
      }
      exchange_.announce(steps_done + 1);
    }
  }

 private:
  __device__ Inputs inputs(int buffer) const {
    return Inputs(Carver(inputs_ + buffer * Inputs(Carver(nullptr)).bytes));
  }

  // Where the gradient of a row of w_hh lies among a row's channels.
  __device__ int64_t channel_offset(int64_t gate_row) const {
    int64_t shift = 0;
#pragma unroll
    for (int gate = 1; gate < Cell::kGates; ++gate) {
      if (gate_row >= gate * hidden_) shift = (Cell::recurrent_channel(gate) - gate) * hidden_;
    }
    return gate_row + shift;
  }

  __device__ void multiply(int64_t s, int64_t tile) const {
    const T* rows[kRowTiles];
    const int64_t after = running_rows(p_.steps, s + 1);
#pragma unroll
    for (int half = 0; half < kRowTiles; ++half) {
      const int64_t row = tile * kBatchRowsPerTile + half * kMmaRows + place_.lane_row;
      rows[half] =
          row < after ? p_.grad_channels + (p_.steps.offset(s + 1) + row) * Cell::kChannels * hidden_ : nullptr;
    }
    product_.multiply(rows, [&](int64_t gate_row) { return channel_offset(gate_row); });
  }

  __device__ void fetch(int64_t s, int64_t tile, int buffer) const {
    const Inputs to = inputs(buffer);
    const int64_t first_row = tile * kBatchRowsPerTile, unit = place_.first_unit;
    const int64_t running = running_rows(p_.steps, s), before = running_rows(p_.steps, s - 1);
    const int64_t at = p_.steps.offset(s) + first_row, at_before = p_.steps.offset(s - 1) + first_row;
    const auto get = [&](int turn, auto* tile_values, auto&& address) {
      fetch_tile(turn, tile_values, p_.w_hh,
                 [&](int row) { return first_row + row < running ? address(row) + unit : nullptr; });
    };
    int turn = 0;
    if (p_.grad_output) {
      get(turn++, to.grad_output, [&](int row) { return p_.grad_output + (at + row) * p_.grad_output_stride; });
    }
    if constexpr (Cell::kKeepsChannels) {
#pragma unroll
      for (int c = 0; c < Cell::kChannels; ++c) {
        get(turn++, to.channels + c * kTileValues,
            [&](int row) { return p_.channels + ((at + row) * Cell::kChannels + c) * hidden_; });
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
    if constexpr (Cell::kHasCellState) {
      get(turn++, to.c, [&](int row) { return p_.cells + (at + row) * hidden_; });
      get(turn++, to.c_prev, [&](int row) {
        return first_row + row < before ? p_.cells + (at_before + row) * hidden_ : p_.cx + (first_row + row) * hidden_;
      });
    }
    commit_copies();
  }

  __device__ void finish(int64_t s, int64_t tile, const Inputs& inputs) const {
    const int64_t row = tile * kBatchRowsPerTile + place_.row, unit = place_.first_unit + place_.unit;
    const bool runs_now = row < running_rows(p_.steps, s), ran_after = row < running_rows(p_.steps, s + 1);
    if (!runs_now && !ran_after) return;
    const int64_t state = row * hidden_ + unit;
    const int in_tile = place_.row * kUnitsPerBlock + place_.unit;
    A dh = ran_after ? product_.sum(0, place_.unit, place_.row) : A{0};
    if (Cell::kCarriesH || !ran_after) dh += p_.grad_h[state];
    if (!runs_now) {
      p_.grad_h[state] = dh;
      return;
    }
    if (p_.grad_output) dh += widen(inputs.grad_output[in_tile]);
    Step<A, Cell::kChannels> step;
    StepGrad<A, Cell::kChannels> grad;
    grad.h = dh;
    if constexpr (Cell::kKeepsChannels) {
#pragma unroll
      for (int c = 0; c < Cell::kChannels; ++c) step.channels[c] = widen(inputs.channels[c * kTileValues + in_tile]);
    }
    if constexpr (Cell::kReadsH) step.h = widen(inputs.h[in_tile]);
    if constexpr (Cell::kReadsPreviousH) step.h_prev = widen(inputs.h_prev[in_tile]);
    if constexpr (Cell::kHasCellState) {
      step.c = inputs.c[in_tile];
      step.c_prev = inputs.c_prev[in_tile];
      grad.c = p_.grad_c[state];
    }
    Cell::backward(step, grad);
    T* channels = p_.grad_channels + (p_.steps.offset(s) + row) * Cell::kChannels * hidden_ + unit;
#pragma unroll
    for (int c = 0; c < Cell::kChannels; ++c) channels[c * hidden_] = narrow<T>(grad.channels[c]);
    if constexpr (Cell::kCarriesH) p_.grad_h[state] = grad.h;
    if constexpr (Cell::kHasCellState) p_.grad_c[state] = grad.c;
  }

  const Backward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace place_;
  const Tiles tiles_;
  const Exchange exchange_;
  char* const inputs_;
  Product product_;
};

template <class Cell, class T>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_backward(const __grid_constant__ PersistentBackwardParams<T> params) {
  using Block = PersistentBackwardBlock<Cell, T>;
  Carver carver(dynamic_shared());
  const typename Block::Shared shared(params.call.dims, carver);
  Block(params.call, params.flags, shared).run();
}

}  // namespace fastrnn::cuda
