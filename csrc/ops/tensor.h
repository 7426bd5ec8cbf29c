// The few tensor operations that the ops need, on torch's stable ABI: one build serves torch 2.11 and later.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <type_traits>
#include <vector>

#include "../matrix.h"

namespace fastrnn::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// cuda_device.h adds the half types.
template <class T>
constexpr ScalarType scalar_type_of = ScalarType::Undefined;
template <>
inline constexpr ScalarType scalar_type_of<float> = ScalarType::Float;
template <>
inline constexpr ScalarType scalar_type_of<double> = ScalarType::Double;

inline int32_t dtype_code(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    case ScalarType::Char:
      return aoti_torch_dtype_int8();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    case ScalarType::Float:
      return aoti_torch_dtype_float32();
    default:
      STD_TORCH_CHECK(false, "fastrnn: no tensors are made of ", torch::headeronly::toString(dtype));
  }
}

// Which device a tensor lies on, as torch's C functions take it.
struct Place {
  int32_t type, index;

  explicit Place(const Tensor& tensor) : index(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  }
  bool operator==(const Place&) const = default;
};

// Uninitialised, contiguous, from torch's allocator.
inline Tensor empty(const std::vector<int64_t>& sizes, ScalarType dtype, const Place& place) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t d = sizes.size(); d-- > 1;) strides[d - 1] = strides[d] * (sizes[d] > 0 ? sizes[d] : 1);
  AtenTensorHandle handle;
  const AOTITorchError error =
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype_code(dtype),
                               place.type, place.index, &handle);
  STD_TORCH_CHECK(error == AOTI_TORCH_SUCCESS, "fastrnn: can't allocate memory for ",
                  sizes.empty() ? 1 : sizes[0] * strides[0], " values of ", torch::headeronly::toString(dtype));
  return Tensor(handle);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

// The matrix as a tensor that borrows its memory.
template <class T>
Tensor as_tensor(const Matrix<T>& matrix, const Place& place) {
  using Value = std::remove_const_t<T>;
  const int64_t sizes[] = {matrix.rows, matrix.columns}, strides[] = {matrix.row_stride, matrix.column_stride};
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(const_cast<Value*>(matrix.data), 2, sizes, strides, 0,
                                                            dtype_code(scalar_type_of<Value>), place.type, place.index,
                                                            &handle));
  return Tensor(handle);
}

}  // namespace fastrnn::ops
