// Tensors and memory of the CPU, for a layer's passes.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "../cpu/kernels.h"
#include "../cpu/tuning.h"
#include "tensor.h"

namespace fastrnn::ops {

template <>
inline constexpr ScalarType scalar_type_of<cpu::Bf16> = ScalarType::BFloat16;
template <>
inline constexpr ScalarType scalar_type_of<cpu::Int8> = ScalarType::Char;

// What a thread keeps from call to call, handed out piece after piece.
class KeptScratch {
 public:
  // Null if it does not suffice.
  std::byte* take(int64_t bytes) {
    const int64_t size = cpu::ceil_div(bytes, kLine) * kLine;
    if (used_ + size > cpu::kKeptScratchBytes) return nullptr;
    if (!memory_) memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kLine, cpu::kKeptScratchBytes)));
    if (!memory_) return nullptr;
    std::byte* const piece = memory_.get() + used_;
    used_ += size;
    ++pieces_;
    return piece;
  }
  // In any order; what lies above `piece` is in use as long as anything is.
  void give_back(const void* piece, int64_t bytes) {
    const int64_t first = static_cast<const std::byte*>(piece) - memory_.get();
    if (--pieces_ == 0) {
      used_ = 0;
    } else if (first + cpu::ceil_div(bytes, kLine) * kLine == used_) {
      used_ = first;
    }
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  static constexpr int64_t kLine = 64;

  std::unique_ptr<std::byte[], Free> memory_;
  int64_t used_ = 0, pieces_ = 0;
};

class CpuMemory {
 public:
  explicit CpuMemory(const Place& place) : place_(place) {}

  Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) const { return ops::empty(sizes, dtype, place_); }
  // Memory for the length of a call, uninitialised: the object's own where it is small, else the thread's, a tensor's
  // only where that does not suffice. Freed at the end of each call, the pages of a large piece would go back to the
  // system, and cost a page fault each in the next.
  template <class T>
  class Scratch {
   public:
    Scratch(const CpuMemory& memory, int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {
      if (count <= kSmall) return;
      data_ = reinterpret_cast<T*>(kept_.take(bytes_));
      if (data_) return;
      tensor_ = memory.empty({count}, scalar_type_of<T>);
      data_ = ops::data<T>(*tensor_);
    }
    ~Scratch() {
      if (data_ != small_ && !tensor_) kept_.give_back(data_, bytes_);
    }
    Scratch(const Scratch&) = delete;
    T* data() const { return data_; }

   private:
    static constexpr int64_t kSmall = cpu::kOwnScratchBytes / static_cast<int64_t>(sizeof(T));
    const int64_t bytes_;
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

 private:
  static inline thread_local KeptScratch kept_;
};

}  // namespace fastrnn::ops
