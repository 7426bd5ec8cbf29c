// Tensors and memory of the CPU, for a layer's passes.
#pragma once

#include <cstring>

#include "../cpu/kernels.h"
#include "../cpu/tuning.h"
#include "tensor.h"

namespace fastrnn::ops {

template <>
inline constexpr ScalarType scalar_type_of<cpu::Bf16> = ScalarType::BFloat16;

class CpuMemory {
 public:
  explicit CpuMemory(const Place& place) : place_(place) {}

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const { return ops::empty(sizes, dtype, place_); }
  // Memory for the length of a call, uninitialised: the object's own where it is small.
  template <class T>
  class Scratch {
   public:
    Scratch(const CpuMemory& memory, int64_t count) {
      if (count <= kSmall) return;
      tensor_ = memory.empty({count}, scalar_type_of<T>);
      data_ = ops::data<T>(*tensor_);
    }
    Scratch(const Scratch&) = delete;
    T* data() const { return data_; }

   private:
    static constexpr int64_t kSmall = cpu::kOwnScratchBytes / static_cast<int64_t>(sizeof(T));
    alignas(64) T small_[kSmall];
    std::optional<Tensor> tensor_;
    T* data_ = small_;
  };

  // torch's contiguous() would not say why it failed where memory is short.
  Tensor dense(const Tensor& tensor) const {
    if (tensor.is_contiguous()) return tensor;
    std::vector<int64_t> sizes;
    for (int64_t d = 0; d < tensor.dim(); ++d) sizes.push_back(tensor.size(d));
    Tensor copy = empty(sizes, tensor.scalar_type());
    torch::stable::copy_(copy, tensor);
    return copy;
  }

  template <class T>
  void copy(T* to, const T* from, int64_t count) const {
    if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
  }
  template <class T>
  void zero(T* to, int64_t count) const {
    if (count > 0) std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
  }

 protected:
  const Place place_;
};

}  // namespace fastrnn::ops
