// GEMMs of more than a few rows with large weights: panels of the weights are packed one at a time, and each is
// multiplied by all rows while it is in the L2 cache. This avoids a packed, or widened, copy of all weights in memory.
#pragma once

#include "../kernels.h"
#include "../team/team.h"
#include "panels.h"

namespace fastrnn::cpu {

template <class Isa, class T, class W>
void multiply_share(const WeightGemm<T, W>& p, const GemmPlan& plan, const Worker& worker) {
  using Packed = Panels<Isa, T, T, 1>;
  alignas(64) static constexpr T kZeros[Packed::kWidth] = {};
  T* const panel = p.scratch + worker.index * Packed::kWidth * p.depth;
  const Packed grid{{p.columns, p.depth}, nullptr, nullptr};
  const Operand<T> a{p.a, p.a_stride, p.depth, 1, {0}};
  const Range rows = plan.by_rows ? share(p.rows, worker.index, worker.count) : Range{0, p.rows};
  const Range panels = plan.by_rows ? Range{0, grid.count()} : share(grid.count(), worker.index, worker.count);
  for (int64_t i = panels.begin; i < panels.end; ++i) {
    grid.pack_values(i, p.weights, panel);
    const PanelView<T, T> view{kZeros, panel, grid.view_stride(i)};
    const auto view_of = [&](int64_t) FASTRNN_INLINE_LAMBDA { return view; };
    multiply_views<T>(grid, {i, i + 1}, view_of, a, rows.begin, rows.end, StoreSums<Isa, T>{p.out, p.out_stride});
  }
}

template <class Isa, class T, class W>
void multiply_panels(const WeightGemm<T, W>& gemm, const GemmPlan& plan) {
  struct Context {
    const WeightGemm<T, W>& gemm;
    const GemmPlan& plan;
  } context{gemm, plan};
  run_team(
      plan.threads,
      [](void* pointer, Worker& worker) {
        const Context& call = *static_cast<Context*>(pointer);
        multiply_share<Isa, T, W>(call.gemm, call.plan, worker);
      },
      &context);
}

}  // namespace fastrnn::cpu
