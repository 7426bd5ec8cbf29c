// The cluster path, backward (BPTT). A block holds the rows of w_hh that belong to its units: at every step it sums the
// cluster's partial sums of dh for its units, applies the derivatives of their cells, multiplies the resulting gate
// gradients by its weights, and sends each block its share of the result. Gate gradients thus never leave the block;
// only dh is exchanged, 1 / G of their size.
#pragma once

#include "../stationary/gemms.cuh"
#include "../stationary/stationary_cells.cuh"
#include "cluster_exchange.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath, int kUnits>
class ClusterBackwardBlock {
  static constexpr int kDepth = Cell::kGates * kUnits;
  using A = Accumulator<T>;
  using Gemm = ScatteredGemmOf<T, kMath, kDepth>;
  using Cells = BackwardCells<Cell, T, kUnits>;
  using Inputs = typename Cells::Inputs;
  using Place = ThreadPlace<kUnits>;
  using Exchange = ClusterExchange<2>;

 public:
  struct Shared {
    typename Gemm::Shared gemm;
    Inputs inputs;            // of a tile
    float* partials;          // (tiles, 2, blocks, kUnits, kPartialStride): partial sums of dh for this block's units
    T* grads;                 // (16, kGradStride): gradients of this block's gates
    A* grad_h;                // (tiles, 16, kUnits): as in BackwardParams
    A* grad_cells = nullptr;  // (tiles, kCellStates, 16, kUnits): likewise
    uint64_t* barriers;       // of the exchange

    FASTRNN_INLINE Shared(const Dims& dims, int64_t tiles, SharedArena& arena)
        : gemm(dims.hidden_size, arena),
          inputs(arena),
          partials(arena.take<float>(tiles * Exchange::kBuffers * dims.hidden_size * kPartialStride)),
          grads(arena.take<T>(kBatchRowsPerTile * kGradStride)),
          grad_h(arena.take<A>(tiles * kTileValues<kUnits>)) {
      if (Cell::kCellStates > 0) grad_cells = arena.take<A>(tiles * Cell::kCellStates * kTileValues<kUnits>);
      barriers = Exchange::take_barriers(arena, tiles);
    }
  };

  __device__ ClusterBackwardBlock(const Backward<T>& call, const WaitLimit& limit, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        last_(call.steps.steps - 1),
        tiles_(call.dims.batch),
        shared_(shared),
        cells_(call),
        gemm_(hidden_, shared.gemm),
        exchange_(shared.barriers, limit, (tiles_.rows(call.dims.batch) + 1) / 2 * 2, hidden_ * sizeof(float),
                  call.steps.steps) {
    const auto weight = [&](int64_t unit, int column) {
      const int64_t gate_row = column / kUnits * hidden_ + place_.first_unit + column % kUnits;
      return p_.w_hh + gate_row * hidden_ + unit;
    };
    gemm_.load_weights(weight, hidden_);
    for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
      for_own_rows(tile, [&](int64_t row, int in_tile) {
        grad_h(tile, in_tile) = p_.grad_h[state(row)];
        for (int k = 0; k < Cell::kCellStates; ++k) grad_cell(k, tile, in_tile) = p_.grad_cell[k][state(row)];
      });
    }
  }

  __device__ void run() {
    if (run_steps()) {
      store_state();
    } else {
      cells_.fill_with_nan(tiles_);
    }
    exchange_.leave();
  }

 private:
  // False if another block does not come.
  __device__ bool run_steps() const {
    RowsAround rows(p_.steps, last_);
    cells_.fetch(rows, tiles_.begin, shared_.inputs);
    // s = -1 only passes the gradients of the first step's rows on to hx.
    for (int64_t s = last_; s >= -1; --s) {
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
        const int64_t local = tile - tiles_.begin, received = last_ - s - 1;
        const bool in_time = s == last_ || exchange_.await(local, received);
        wait_for_copies<0>();
        if (__syncthreads_or(!in_time)) return false;
        if (s < last_) exchange_.received(local, received);
        finish(s, rows, tile);
        __syncthreads();
        if (s >= 0) multiply_and_send(s, tile);
        if (s >= 0 && tile + 1 < tiles_.end) cells_.fetch(rows, tile + 1, shared_.inputs);
      }
      rows.go_back(p_.steps, s - 1);
      if (s > 0) cells_.fetch(rows, tiles_.begin, shared_.inputs);
    }
    return true;
  }

  __device__ void store_state() const {
    for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
      for_own_rows(tile, [&](int64_t row, int in_tile) {
        p_.grad_h[state(row)] = grad_h(tile, in_tile);
        for (int k = 0; k < Cell::kCellStates; ++k) p_.grad_cell[k][state(row)] = grad_cell(k, tile, in_tile);
      });
    }
  }

  // Not 16, to avoid bank conflicts between neighbouring units' partial sums. Even, since they are stored in pairs.
  static constexpr int kPartialStride = kBatchRowsPerTile + 2;
  // Padded so that neighbouring lanes load their pieces from different banks.
  static constexpr int kGradStride = kDepth + 32 / static_cast<int>(sizeof(T));

  // Calls visit(row, in_tile) for this thread's rows that lie within the batch.
  template <class Visit>
  __device__ void for_own_rows(int64_t tile, const Visit& visit) const {
#pragma unroll
    for (int in_tile = place_.first_row; in_tile < kBatchRowsPerTile; in_tile += Place::kRowStep) {
      const int64_t row = tile * kBatchRowsPerTile + in_tile;
      if (row < p_.dims.batch) visit(row, in_tile);
    }
  }

  __device__ int64_t state(int64_t row) const { return row * hidden_ + place_.first_unit + place_.unit; }
  // In (., 16, kUnits).
  __device__ int64_t own(int64_t index, int in_tile) const {
    return (index * kBatchRowsPerTile + in_tile) * kUnits + place_.unit;
  }
  __device__ A& grad_h(int64_t tile, int in_tile) const { return shared_.grad_h[own(tile - tiles_.begin, in_tile)]; }
  __device__ A& grad_cell(int state, int64_t tile, int in_tile) const {
    return shared_.grad_cells[own((tile - tiles_.begin) * Cell::kCellStates + state, in_tile)];
  }

  // The blocks' partial sums of the dh that step s passes back: (blocks, kUnits, kPartialStride).
  __device__ float* partials(int64_t s, int64_t tile) const {
    return shared_.partials + Exchange::buffer(tile - tiles_.begin, last_ - s) * hidden_ * kPartialStride;
  }

  __device__ A sum_of_partials(int64_t s, int64_t tile, int in_tile) const {
    const float* partial = partials(s, tile) + place_.unit * kPartialStride + in_tile;
    A sum = 0;
    for (int block = 0; block < static_cast<int>(gridDim.x); ++block) sum += partial[block * kUnits * kPartialStride];
    return sum;
  }

  __device__ void finish(int64_t s, const RowsAround& rows, int64_t tile) const {
#pragma unroll
    for (int in_tile = place_.first_row; in_tile < kBatchRowsPerTile; in_tile += Place::kRowStep) {
      const int64_t row = tile * kBatchRowsPerTile + in_tile;
      T* const grads = shared_.grads + in_tile * kGradStride + place_.unit;
      if (row >= rows.now.running) {
#pragma unroll
        for (int gate = 0; gate < Cell::kGates; ++gate) grads[gate * kUnits] = narrow<T>(A{0});
      }
      if (row >= p_.dims.batch) continue;
      cells_.finish(
          rows, row, shared_.inputs, [&] { return sum_of_partials(s + 1, tile, in_tile); }, grad_h(tile, in_tile),
          [&](int k) -> A& { return grad_cell(k, tile, in_tile); },
          [&](int slot, T value) {
#pragma unroll
            for (int gate = 0; gate < Cell::kGates; ++gate) {
              if (Cell::recurrent_slot(gate) == slot) grads[gate * kUnits] = value;
            }
          });
    }
  }

  __device__ void multiply_and_send(int64_t s, int64_t tile) const {
    float* const own_partials = partials(s, tile) + int64_t{cluster_rank()} * kUnits * kPartialStride;
    // In pairs.
    const int sent_rows = exchange_.rows_of(tile - tiles_.begin);
    const auto row = [&](int batch_row) { return shared_.grads + batch_row * kGradStride; };
    gemm_.multiply(row, [&](int64_t unit, int batch_row, float2 sums) {
      if (batch_row >= sent_rows) return;
      float* const to = own_partials + unit % kUnits * kPartialStride + batch_row;
      exchange_.send(reinterpret_cast<float2*>(to), tile - tiles_.begin, last_ - s, static_cast<int>(unit / kUnits),
                     sums);
    });
  }

  const Backward<T>& p_;
  const int64_t hidden_, last_;
  const Place place_;
  const Tiles tiles_;
  const Shared& shared_;
  const Cells cells_;
  Gemm gemm_;
  const Exchange exchange_;
};

template <class Cell, class T, MathMode kMath, int kUnits>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    cluster_backward(const __grid_constant__ StationaryParams<Backward<T>> params) {
#if FASTRNN_HAS_CLUSTERS
  using Block = ClusterBackwardBlock<Cell, T, kMath, kUnits>;
  SharedArena arena(dynamic_shared());
  const Backward<T>& call = params.calls[blockIdx.z];
  const typename Block::Shared shared(call.dims, params.most_tiles, arena);
  Block(call, params.wait, shared).run();
#endif
}

}  // namespace fastrnn::cuda
