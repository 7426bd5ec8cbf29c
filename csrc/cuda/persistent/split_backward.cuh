// The persistent path, backward, where every block would read too much: the blocks of a small cluster split the gate
// gradients, and exchange partial sums of dh.
#pragma once

#include "persistent_backward_step.cuh"
#include "split_sums.cuh"

namespace fastrnn::cuda {

template <class Cell, class T, MathMode kMath, int kSplit>
class SplitBackwardBlock {
  using BackwardStep = PersistentBackwardStep<Cell, T, kMath, kSplit>;
  using Sums = SplitSums<kSplit>;

 public:
  struct Shared {
    typename BackwardStep::Shared step;
    typename Sums::Shared sums;

    FASTRNN_INLINE Shared(const Dims& dims, SharedArena& arena) : step(dims, arena), sums(arena) {}
  };

  __device__ SplitBackwardBlock(const Backward<T>& call, uint32_t* flags, const WaitLimit& limit, const Shared& shared)
      : exchange_(flags, limit),
        step_(call, shared.step),
        sums_(shared.sums, limit, gemm_number(-2, step_.tiles.begin)) {}

  __device__ void run() {
    if (!run_steps()) step_.give_up();
    sums_.leave();
  }

 private:
  // The sums of a tile are exchanged while the next one's are computed. False if another block does not come.
  __device__ bool run_steps() {
    const Tiles& tiles = step_.tiles;
    RowsAround rows = step_.last_rows();
    step_.fetch(rows, tiles.begin);
    // s = -1 only passes the gradients of the first step's rows on to hx.
    for (int64_t s = step_.last; s >= -1; --s) {
      const int64_t steps_done = step_.last - s;
      if (steps_done > 0 && !exchange_.await(steps_done)) return false;
      for (int64_t next = tiles.begin; next <= tiles.end; ++next) {
        const int64_t tile = next - 1;
        const bool finishes = tile >= tiles.begin;
        const auto state = finishes ? step_.load_state(tile) : typename BackwardStep::State{};
        if (next < tiles.end) step_.multiply(rows.after, next);
        wait_for_copies<0>();
        __syncthreads();
        if (next < tiles.end) sums_.send(step_.gemm(), gemm_number(s, next));
        bool in_time = true;
        if (finishes) {
          const int64_t number = gemm_number(s, tile);
          in_time = sums_.await(number);
          step_.finish(rows, tile, state, [&] { return sums_.sum(number, step_.place.unit, step_.place.first_row); });
        }
        if (__syncthreads_or(!in_time)) return false;
        if (finishes) {
          sums_.received(gemm_number(s, tile));
          if (s >= 0 && next < tiles.end) step_.fetch(rows, next);
        }
      }
      exchange_.announce(steps_done + 1);
      step_.go_back(s, rows);
    }
    return true;
  }

  // GEMMs are numbered over the whole sequence.
  __device__ int64_t gemm_number(int64_t s, int64_t tile) const {
    return (step_.last - s) * (step_.tiles.end - step_.tiles.begin) + tile - step_.tiles.begin;
  }

  const FlagExchange exchange_;
  const BackwardStep step_;
  const Sums sums_;
};

}  // namespace fastrnn::cuda
