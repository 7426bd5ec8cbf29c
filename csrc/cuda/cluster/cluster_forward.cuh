// The cluster path, forward. The blocks of a cluster together hold all of w_hh, and each holds h of the cluster's batch
// rows: at every step a block multiplies h_{t-1} by the rows of w_hh that belong to its units, applies their cells, and
// sends their h to all blocks of the cluster. Clusters are independent of one another.
#pragma once

#include "../stationary/gemms.cuh"
#include "../stationary/stationary_cells.cuh"
#include "cluster_exchange.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath, int kUnits>
class ClusterForwardBlock {
  using A = Accumulator<T>;
  // Small blocks have few columns: their largest cluster has 256.
  static constexpr int kWeightRegisters = kUnits == 16 ? 32 : 48;
  using Gemm = StationaryGemmOf<T, kMath, Cell::kGates, kUnits / kMmaUnits, kWeightRegisters>;
  using Cells = ForwardCells<Cell, T, kUnits>;
  using Place = ThreadPlace<kUnits>;
  using Exchange = ClusterExchange<2>;

 public:
  struct Shared {
    typename Gemm::Shared gemm;
    T* inputs;           // of a tile
    T* h;                // (tiles, 2, 16, h_stride): h, double-buffered over the steps
    T* own_h;            // (16, kUnits): staging area for what is sent
    A* cells = nullptr;  // (tiles, kCellStates, 16, kUnits)
    uint64_t* barriers;  // of the exchange

    FASTRNN_INLINE Shared(const Dims& dims, int64_t tiles, SharedArena& arena)
        : gemm(dims.recurrent_size, arena),
          inputs(arena.take<T>(Cells::kInputs)),
          h(arena.take<T>(tiles * Exchange::kBuffers * kBatchRowsPerTile * h_stride(dims.hidden_size))),
          own_h(arena.take<T>(kTileValues<kUnits>)) {
      if (Cell::kCellStates > 0) cells = arena.take<A>(tiles * Cell::kCellStates * kTileValues<kUnits>);
      barriers = Exchange::take_barriers(arena, tiles);
    }
  };

  __device__ ClusterForwardBlock(const Forward<T>& call, const WaitLimit& limit, const Shared& shared)
      : p_(call),
        hidden_(call.dims.hidden_size),
        stride_(h_stride(hidden_)),
        tiles_(call.dims.batch),
        shared_(shared),
        cells_(call),
        gemm_(call.dims.recurrent_size, shared.gemm),
        exchange_(shared.barriers, limit, tiles_.rows(call.dims.batch), hidden_ * sizeof(T), p_.steps.steps - 1) {
    const auto weight = [&](int gate, int unit, int64_t column) {
      return p_.w_hh + (gate * hidden_ + place_.first_unit + unit) * hidden_ + column;
    };
    gemm_.load_weights(weight, 1);
    for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) load_state(tile);
    __syncthreads();
  }

  __device__ void run() {
    if (!run_steps()) cells_.fill_with_nan(tiles_);
    exchange_.leave();
  }

 private:
  static constexpr int kOwnRows = kBatchRowsPerTile / Place::kRowStep;  // of a thread, in a tile
  using Done = typename Cells::Done[kOwnRows];

  // False if another block does not come.
  __device__ bool run_steps() const {
    RowsAround rows(p_.steps, 0);
    cells_.fetch(rows.now, tiles_.begin, shared_.inputs);
    for (int64_t s = 0; s < p_.steps.steps; ++s) {
      for (int64_t tile = tiles_.begin; tile < tiles_.end; ++tile) {
        const int64_t local = tile - tiles_.begin;
        const bool in_time = s == 0 || exchange_.await(local, s - 1);
        multiply(s, tile);
        wait_for_copies<0>();
        if (__syncthreads_or(!in_time)) return false;
        if (s > 0) exchange_.received(local, s - 1);
        Done done;
        finish(s, rows.now, tile, done);
        __syncthreads();
        if (s + 1 < p_.steps.steps) send(s, tile);
        // What nobody waits for.
        keep(rows, tile, done);
        if (tile + 1 < tiles_.end) {
          cells_.fetch(rows.now, tile + 1, shared_.inputs);
        } else if (s + 1 < p_.steps.steps) {
          cells_.fetch(rows.after, tiles_.begin, shared_.inputs);
        }
      }
      rows.go_forward(p_.steps, s + 1);
    }
    return true;
  }

  // Padded so that neighbouring lanes load their pieces from different banks.
  static FASTRNN_INLINE int64_t h_stride(int64_t hidden) { return hidden + 32 / static_cast<int64_t>(sizeof(T)); }

  // h of the tile at step s, (16, stride_); at step -1, the initial state.
  __device__ T* h(int64_t s, int64_t tile) const {
    return shared_.h + Exchange::buffer(tile - tiles_.begin, s + Exchange::kBuffers) * kBatchRowsPerTile * stride_;
  }

  __device__ A& cell(int state, int64_t tile, int row) const {
    const int64_t in_shared = (tile - tiles_.begin) * Cell::kCellStates + state;
    return shared_.cells[(in_shared * kBatchRowsPerTile + row) * kUnits + place_.unit];
  }

  __device__ void load_state(int64_t tile) const {
#pragma unroll 1
    for (int row = 0; row < kBatchRowsPerTile; ++row) {
      const int64_t at = tile * kBatchRowsPerTile + row;
      T* const to = h(-1, tile) + row * stride_;
#pragma unroll 1
      for (int64_t unit = threadIdx.x; unit < hidden_; unit += kThreadsPerBlock) {
        to[unit] = at < p_.dims.batch ? p_.hx[at * hidden_ + unit] : narrow<T>(A{0});
        // Nobody sends what lies beyond the batch.
        if (at >= p_.dims.batch) h(0, tile)[row * stride_ + unit] = narrow<T>(A{0});
      }
    }
    for (int k = 0; k < Cell::kCellStates; ++k) {
      for (int row = place_.first_row; row < kBatchRowsPerTile; row += Place::kRowStep) {
        const int64_t at = tile * kBatchRowsPerTile + row;
        if (at < p_.dims.batch) cell(k, tile, row) = p_.cell[k][at * hidden_ + place_.first_unit + place_.unit];
      }
    }
  }

  __device__ void multiply(int64_t s, int64_t tile) const {
    gemm_.multiply([&](int row) { return h(s - 1, tile) + row * stride_; }, [](int column) { return column; });
  }

  // Rows that do not run keep their h, which is hx until they begin.
  __device__ void finish(int64_t s, const StepRows& rows, int64_t tile, Done& done) const {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int row = own_row(i);
      T own_h = h(s - 1, tile)[row * stride_ + place_.first_unit + place_.unit];
      done[i] = {};
      if (tile * kBatchRowsPerTile + row < rows.running) {
        CellStates<A> cells;
#pragma unroll
        for (int k = 0; k < Cell::kCellStates; ++k) cells[k] = cell(k, tile, row);
        done[i] =
            cells_.run(row, shared_.inputs, [&](int gate) { return gemm_.sum(gate, place_.unit, row); }, own_h, cells);
#pragma unroll
        for (int k = 0; k < Cell::kCellStates; ++k) cell(k, tile, row) = done[i].cell[k];
        own_h = narrow<T>(done[i].h);
      }
      shared_.own_h[row * kUnits + place_.unit] = own_h;
    }
  }

  __device__ void keep(const RowsAround& rows, int64_t tile, const Done& done) const {
#pragma unroll
    for (int i = 0; i < kOwnRows; ++i) {
      const int64_t row = tile * kBatchRowsPerTile + own_row(i);
      if (row >= rows.now.running) continue;
      cells_.publish(rows, row, done[i]);
      cells_.keep(rows.now, row, done[i]);
      if (row < rows.after.running) continue;
#pragma unroll
      for (int k = 0; k < Cell::kCellStates; ++k) {
        p_.cell[k][row * hidden_ + place_.first_unit + place_.unit] = done[i].cell[k];
      }
    }
  }

  // The thread's i-th row in a tile.
  __device__ int own_row(int i) const { return place_.first_row + i * Place::kRowStep; }

  __device__ void send(int64_t s, int64_t tile) const {
    constexpr int kWidth = 16 / sizeof(T), kPieces = kTileValues<kUnits> / kWidth;
    static_assert(kThreadsPerBlock % kPieces == 0);
    const int blocks = static_cast<int>(gridDim.x), first_rank = cluster_rank();
    const int piece = static_cast<int>(threadIdx.x) % kPieces, row = piece * kWidth / kUnits;
    if (row >= exchange_.rows_of(tile - tiles_.begin)) return;
    T* const to = h(s, tile) + row * stride_ + place_.first_unit + piece * kWidth % kUnits;
    const uint4 value = reinterpret_cast<const uint4*>(shared_.own_h)[piece];
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x) / kPieces; i < blocks; i += kThreadsPerBlock / kPieces) {
      // Staggered, so that not all blocks send to the same one first.
      const int rank = first_rank + i < blocks ? first_rank + i : first_rank + i - blocks;
      exchange_.send(reinterpret_cast<uint4*>(to), tile - tiles_.begin, s, rank, value);
    }
  }

  const Forward<T>& p_;
  const int64_t hidden_, stride_;
  const Place place_;
  const Tiles tiles_;
  const Shared& shared_;
  const Cells cells_;
  Gemm gemm_;
  const Exchange exchange_;
};

template <class Cell, class T, MathMode kMath, int kUnits>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    cluster_forward(const __grid_constant__ StationaryParams<Forward<T>> params) {
#if FASTRNN_HAS_CLUSTERS
  using Block = ClusterForwardBlock<Cell, T, kMath, kUnits>;
  SharedArena arena(dynamic_shared());
  const Forward<T>& call = params.calls[blockIdx.z];
  const typename Block::Shared shared(call.dims, params.most_tiles, arena);
  Block(call, params.wait, shared).run();
#endif
}

}  // namespace fastrnn::cuda
