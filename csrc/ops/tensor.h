// The few tensor operations that the ops need, on torch's stable ABI: one build serves torch 2.11 and later.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstring>
#include <initializer_list>
#include <optional>
#include <vector>

namespace fastrnn::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
constexpr ScalarType scalar_type_of = std::is_same_v<T, float> ? ScalarType::Float : ScalarType::Double;

inline int32_t dtype_code(ScalarType dtype) {
  return dtype == ScalarType::Float ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64();
}

// Uninitialised, contiguous, on the CPU, from torch's allocator.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * (sizes[d] > 0 ? sizes[d] : 1);
  AtenTensorHandle handle;
  const AOTITorchError error =
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype_code(dtype),
                               aoti_torch_device_type_cpu(), 0, &handle);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "fastrnn: can't allocate memory for ",
                  sizes.empty() ? 1 : sizes[0] * strides[0], " values of ",
                  dtype == ScalarType::Float ? "float32" : "float64");
  return Tensor(handle);
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

template <class T>
void copy(T* to, const T* from, int64_t count) {
  if (count > 0) std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

template <class T>
void zero(T* to, int64_t count) {
  if (count > 0) std::memset(to, 0, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace fastrnn::ops
