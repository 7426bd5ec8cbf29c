// The persistent path, backward (BPTT). At every step a block multiplies the next step's gate gradients by the columns
// of w_hh of its own units, which it keeps, takes the derivatives of their cells, and tells the blocks of its group.
#pragma once

#include "persistent_block.cuh"
#include "products.cuh"
#include "stationary_cells.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, Math kMath>
class PersistentBackwardBlock {
  static constexpr int kUnits = kUnitsPerBlock;
  using A = Accumulator<T>;
  using Product = StationaryProductOf<T, kMath, 1, 1, 64>;
  using Cells = BackwardCells<Cell, T, kUnits>;
  using Inputs = typename Cells::Inputs;

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
        cells_(call),
        inputs_(shared.inputs),
        product_(Cell::kGates * call.dims.hidden_size, shared.product) {
    const auto weight = [&](int, int unit, int64_t gate_row) {
      return p_.w_hh + gate_row * hidden_ + place_.first_unit + unit;
    };
    product_.load_weights(weight, hidden_);
  }

  __device__ void run() {
    int buffer = 0;
    const int64_t last = p_.steps.steps - 1;
    cells_.fetch(last, tiles_.begin, inputs(buffer));
    for (int64_t s = last; s >= -1; --s) {
      const int64_t steps_done = last - s;
      if (steps_done > 0) exchange_.await(product_.begin(), product_.end(), steps_done);
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile, buffer ^= 1) {
        multiply(s, tile);
        wait_for_copies<0>();
        __syncthreads();
        if (s >= 0 && tile + 1 < tiles_.end) {
          cells_.fetch(s, tile + 1, inputs(buffer ^ 1));
        } else if (s > 0) {
          cells_.fetch(s - 1, tiles_.begin, inputs(buffer ^ 1));
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
    const int64_t after = running_rows(p_.steps, s + 1), first_row = tile * kBatchRowsPerTile;
    const T* const grads = p_.grad_channels + (first_row_of(p_.steps, s + 1) + first_row) * Cell::kChannels * hidden_;
    product_.multiply(
        [&](int row) { return first_row + row < after ? grads + row * Cell::kChannels * hidden_ : nullptr; },
        [&](int64_t gate_row) { return channel_offset(gate_row); });
  }

  __device__ void finish(int64_t s, int64_t tile, const Inputs& inputs) const {
    const int64_t row = tile * kBatchRowsPerTile + place_.first_row;
    if (row >= p_.dims.batch) return;
    const int64_t state = row * hidden_ + place_.first_unit + place_.unit;
    A no_c;
    cells_.finish(
        s, row, inputs, [&] { return product_.sum(0, place_.unit, place_.first_row); }, p_.grad_h[state],
        Cell::kHasCellState ? p_.grad_c[state] : no_c, [](int, T) {});
  }

  const Backward<T>& p_;
  const int64_t hidden_;
  const ThreadPlace<kUnits> place_;
  const Tiles tiles_;
  const Exchange exchange_;
  const Cells cells_;
  char* const inputs_;
  Product product_;
};

template <class Cell, class T, Math kMath>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_backward(const __grid_constant__ StationaryParams<Backward<T>> params) {
  using Block = PersistentBackwardBlock<Cell, T, kMath>;
  Carver carver(dynamic_shared());
  const Backward<T>& call = params.calls[blockIdx.z];
  const typename Block::Shared shared(call.dims, carver);
  Block(call, params.flags, shared).run();
}

}  // namespace fastrnn::cuda
