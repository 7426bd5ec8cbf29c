// The persistent path, backward (BPTT). At every step a block multiplies the next step's gate gradients, those of all
// gates, by the columns of w_hh that belong to its units, applies the derivatives of their cells, and signals the
// blocks of its group.
#pragma once

#include "persistent_backward_step.cuh"
#include "split_backward.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath>
class WholeBackwardBlock {
  using BackwardStep = PersistentBackwardStep<Cell, T, kMath, 1>;

 public:
  using Shared = typename BackwardStep::Shared;

  __device__ WholeBackwardBlock(const Backward<T>& call, uint32_t* flags, const WaitLimit& limit, const Shared& shared)
      : exchange_(flags, limit), step_(call, shared) {}

  __device__ void run() {
    const Tiles& tiles = step_.tiles;
    RowsAround rows = step_.last_rows();
    step_.fetch(rows, tiles.begin);
    // s = -1 only passes the gradients of the first step's rows on to hx.
    for (int64_t s = step_.last; s >= -1; --s) {
      const int64_t steps_done = step_.last - s;
      if (steps_done > 0 && !exchange_.await(steps_done)) return step_.give_up();
      for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
        const auto state = step_.load_state(tile);
        step_.multiply(rows.after, tile);
        wait_for_copies<0>();
        __syncthreads();
        step_.finish(rows, tile, state, [&] { return step_.gemm().sum(0, step_.place.unit, step_.place.first_row); });
        __syncthreads();
        if (tile + 1 == tiles.end) {
          exchange_.announce(steps_done + 1);
        } else if (s >= 0) {
          step_.fetch(rows, tile + 1);
        }
      }
      step_.go_back(s, rows);
    }
  }

 private:
  const FlagExchange exchange_;
  const BackwardStep step_;
};

template <class Cell, class T, MathMode kMath, int kSplit>
using PersistentBackwardBlock =
    std::conditional_t<kSplit == 1, WholeBackwardBlock<Cell, T, kMath>, SplitBackwardBlock<Cell, T, kMath, kSplit>>;

template <class Cell, class T, MathMode kMath, int kSplit>
__global__ void __launch_bounds__(kThreadsPerBlock, 1)
    persistent_backward(const __grid_constant__ StationaryParams<Backward<T>> params) {
  if constexpr (kSplit == 1 || FASTRNN_HAS_CLUSTERS) {
    using Block = PersistentBackwardBlock<Cell, T, kMath, kSplit>;
    SharedArena arena(dynamic_shared());
    const Backward<T>& call = params.calls[blockIdx.z];
    const typename Block::Shared shared(call.dims, arena);
    Block(call, params.flags, params.wait, shared).run();
  }
}

}  // namespace fastrnn::cuda
