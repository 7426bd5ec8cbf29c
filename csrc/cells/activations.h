// Activations and their derivatives, generic over the value type V: float, double, or a SIMD vector of either.
#pragma once

#include <cmath>

#include "portable.h"

namespace fastrnn {

template <class V>
FASTRNN_INLINE V reciprocal(V x) {
  return 1 / x;
}
#ifdef __CUDA_ARCH__
// To within two ulp, where the division would be a branch to a function.
template <>
__device__ __forceinline__ float reciprocal(float x) {
  return __fdividef(1.0f, x);
}
#endif

// The transcendental functions of a value type. SIMD vectors specialise it in cpu/isa/vector_math.h.
template <class V>
struct Math {
  static FASTRNN_INLINE V sigmoid(V x) { return reciprocal(1 + std::exp(-x)); }
  static FASTRNN_INLINE V tanh(V x) { return std::tanh(x); }
};

template <class V>
FASTRNN_INLINE V sigmoid(V x) {
  return Math<V>::sigmoid(x);
}

// Derivatives are computed from the activation's output y, which is what the reserve holds.
template <class V>
FASTRNN_INLINE V sigmoid_grad(V y) {
  return y * (1 - y);
}

template <class V>
FASTRNN_INLINE V tanh_grad(V y) {
  return 1 - y * y;
}

struct Tanh {
  static constexpr const char* kName = "tanh";
  template <class V>
  static FASTRNN_INLINE V forward(V x) {
    return Math<V>::tanh(x);
  }
  template <class V>
  static FASTRNN_INLINE V backward(V y, V grad) {
    return grad * tanh_grad(y);
  }
};

struct Relu {
  static constexpr const char* kName = "relu";
  // Both comparisons are false for NaN, so NaN passes through, as in torch.relu and its gradient.
  template <class V>
  static FASTRNN_INLINE V forward(V x) {
    return x < 0 ? V{} : x;
  }
  template <class V>
  static FASTRNN_INLINE V backward(V y, V grad) {
    return y <= 0 ? V{} : grad;
  }
};

// For activations chosen at run time.
enum class Activation { kIdentity, kTanh, kRelu, kSigmoid };

template <class V>
FASTRNN_INLINE V activate(Activation activation, V x) {
  if (activation == Activation::kTanh) return Tanh::forward<V>(x);
  if (activation == Activation::kRelu) return Relu::forward<V>(x);
  return activation == Activation::kSigmoid ? sigmoid<V>(x) : x;
}

template <class V>
FASTRNN_INLINE V activate_backward(Activation activation, V y, V grad) {
  if (activation == Activation::kTanh) return Tanh::backward<V>(y, grad);
  if (activation == Activation::kRelu) return Relu::backward<V>(y, grad);
  return activation == Activation::kSigmoid ? V(grad * sigmoid_grad(y)) : grad;
}

}  // namespace fastrnn
