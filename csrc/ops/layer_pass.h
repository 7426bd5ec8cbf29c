// What the two passes over a call's layers share, on whatever device: forward_pass.h and backward_pass.h do the large
// products that all steps share, around the time loop.
//
// Device (CpuDevice, CudaDevice) makes tensors and scratch, moves memory and multiplies; Device::Accumulator<T> is A
// of params.h. Loops<T, W> (CpuLoops, CudaLoops) runs the time loops of a group of recurrences: at_once() says of how
// many layers and directions, multiplies_input() whether forward's loops do that, cut() how the sequence is to be cut.
// run() takes the group's calls, layer by layer as they depend on each other, and what must be done before and after
// each sub-chunk of each call: what comes before a layer's sub-chunk needs what came after that sub-chunk in the layer
// ahead of it.
#pragma once

#include <algorithm>

#include "chunks.h"
#include "extras.h"

namespace fastrnn::ops {

template <class Device>
std::vector<Tensor> all_dense(const Device& device, const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  out.reserve(tensors.size());
  for (const Tensor& tensor : tensors) out.push_back(device.dense(tensor));
  return out;
}

inline std::vector<int64_t> sizes_like(const Tensor& input, int64_t columns) {
  if (input.dim() == 2) return {input.size(0), columns};
  return {input.size(0), input.size(1), columns};
}

// The state that a kernel updates, held in A: a copy of what arrives in T, or zeros.
template <class T, class A, class Device>
Tensor copy_or_zeros(const Device& device, const std::optional<Tensor>& from, const std::vector<int64_t>& sizes) {
  const Tensor out = device.empty(sizes, scalar_type_of<A>);
  if (from) {
    STD_TORCH_CHECK(from->scalar_type() == scalar_type_of<T> && from->numel() == out.numel(),
                    "fastrnn: a gradient or cell state does not fit");
    const Tensor wide = converted(device.dense(*from), scalar_type_of<A>);
    device.copy(data<A>(out), data<const A>(wide), out.numel());
  } else {
    device.zero(data<A>(out), out.numel());
  }
  return out;
}

template <class T, class Device>
ReserveLayout reserve_layout(const LayerArgs& args, const LayerShape& shape) {
  return {cell_facts(args.cell), shape, sizeof(typename Device::template Accumulator<T>) / sizeof(T)};
}

// A group of recurrences that run at the same time: so many layers from the first on, upwards or downwards, and of each
// so many directions.
inline std::vector<Recurrence> group(const LayerShape& shape, const AtOnce& at_once, int64_t first_layer,
                                     int64_t first_direction, int64_t upwards) {
  const int64_t layers_left = upwards > 0 ? shape.layers - first_layer : first_layer + 1;
  std::vector<Recurrence> recurrences;
  for (int64_t n = 0; n < std::min(at_once.layers, layers_left); ++n) {
    for (int64_t d = 0; d < at_once.directions; ++d) {
      recurrences.push_back(shape.recurrence(first_layer + n * upwards, first_direction + d));
    }
  }
  return recurrences;
}

// What one layer hands to the next, (N, D*K) for all but the last: outputs on the way up, their gradients on the way
// down. There is room for as many as are in use at the same time.
template <class T, class Device>
class BetweenLayers {
 public:
  BetweenLayers(const Device& device, const LayerShape& shape, int64_t layers_at_once)
      : size_(shape.rows * shape.output_columns()), count_(std::min(shape.layers - 1, layers_at_once + 1)) {
    if (count_ > 0) memory_.emplace(device, count_ * size_);
  }

  // Above that layer.
  T* above(int64_t layer) const { return memory_->data() + layer % count_ * size_; }

 private:
  const int64_t size_, count_;
  std::optional<typename Device::template Scratch<T>> memory_;
};

}  // namespace fastrnn::ops
