// Registers torch.ops.fastrnn, and its kernels for the CPU.
#include "../cpu/isa/select.h"
#include "bindings.h"

namespace fastrnn::ops {

STABLE_TORCH_LIBRARY(fastrnn, m) { define_ops(m); }

// (count,) of like's dtype: the value with the probability, else 0. Depends on nothing but the seed, one int64.
Tensor random_mask(Tensor seed, Tensor like, int64_t count, double probability, double value) {
  STD_TORCH_CHECK(seed.scalar_type() == ScalarType::Long && seed.numel() == 1, "fastrnn: seed must be one int64");
  STD_TORCH_CHECK(count >= 0 && probability >= 0 && probability <= 1, "fastrnn: probability must lie within [0, 1]");
  const ScalarType dtype = like.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "fastrnn: a mask on the CPU is float32 or float64");
  const Tensor out = empty({count}, dtype, Place(like));
  const auto number = static_cast<uint64_t>(*data<int64_t>(seed));
  if (dtype == ScalarType::Float) {
    cpu::kernels().f32.fill_mask(number, data<float>(out), count, probability, static_cast<float>(value));
  } else {
    cpu::kernels().f64.fill_mask(number, data<double>(out), count, probability, value);
  }
  return out;
}

Tensors pack(StringHandle cell, Tensors weights, bool bidirectional, bool narrowed, OptionalList<Tensor> scales) {
  return {CpuLayer::freeze(take_cell(cell), weights, bidirectional, narrowed, scales.value_or(Tensors{}))};
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, CPU, m) {
  implement_ops<CpuLayer>(m);
  m.impl("_random_mask", TORCH_BOX(&random_mask));
  m.impl("_pack", TORCH_BOX(&pack));
}

STABLE_TORCH_LIBRARY_IMPL(fastrnn, Meta, m) { m.impl("_plan", TORCH_BOX(&Ops<MetaLayer>::plan)); }

}  // namespace fastrnn::ops
