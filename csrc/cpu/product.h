// The product of many rows with bfloat16 weights, in float: panels of the weights are widened one at a time, and each
// multiplies all rows while it is in the second-level cache. No call touches memory for a wide copy of all weights.
#pragma once

#include "kernels.h"
#include "panels.h"
#include "team.h"

namespace fastrnn::cpu {

template <class Isa>
void run_share(const Bf16Product& p, const ProductPlan& plan, const Member& member) {
  using Wide = Panels<Isa, float, float, 1>;
  alignas(64) static constexpr float kZeros[Wide::kWidth] = {};
  float* const panel = p.scratch + member.index * Wide::kWidth * p.depth;
  const Wide grid{{p.columns, p.depth}, nullptr, nullptr};
  const Operand<float> a{p.a, p.a_stride, p.depth, 1, {0}};
  const Range rows = plan.by_rows ? share(p.rows, member.index, member.count) : Range{0, p.rows};
  const Range panels = plan.by_rows ? Range{0, grid.count()} : share(grid.count(), member.index, member.count);
  for (int64_t i = panels.begin; i < panels.end; ++i) {
    grid.pack_values(i, p.weights, panel);
    const PanelView<float, float> view{kZeros, panel, grid.view_stride(i)};
    const auto view_of = [&](int64_t) FASTRNN_INLINE_LAMBDA { return view; };
    multiply_views<float>(grid, {i, i + 1}, view_of, a, rows.begin, rows.end,
                          StoreSums<Isa, float>{p.out, p.out_stride});
  }
}

template <class Isa>
void run_product(const Bf16Product& product, const ProductPlan& plan) {
  struct Context {
    const Bf16Product& product;
    const ProductPlan& plan;
  } context{product, plan};
  run_team(
      plan.threads,
      [](void* pointer, Member& member) {
        const Context& call = *static_cast<Context*>(pointer);
        run_share<Isa>(call.product, call.plan, member);
      },
      &context);
}

}  // namespace fastrnn::cpu
