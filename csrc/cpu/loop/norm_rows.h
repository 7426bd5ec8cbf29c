// Layer normalisation (cells/normalized.h) of whole batch rows: their statistics, and the gradients. All sums have a
// fixed order, whichever thread runs a row.
#pragma once

#include <cmath>

#include "../../cells/lstm.h"
#include "../../cells/normalized.h"
#include "../gemm/panels.h"

namespace fastrnn::cpu {

// Sums over a row of the terms that terms(i, lanes, out) computes for each of its vectors, kSums per vector. kChains
// vectors are in flight at once, to hide the latency of the additions where the terms are short.
template <class Isa, class T, int kSums, int kChains>
class RowSums {
  using S = Simd<Isa, T>;
  using V = typename S::V;

 public:
  template <class Terms>
  FASTRNN_INLINE void add(int64_t count, const Terms& terms) {
    constexpr int64_t kWhole = kChains * S::kLanes;
    int64_t i = 0;
    for (; i + kWhole <= count; i += kWhole) {
      for (int chain = 0; chain < kChains; ++chain) add(chain, i + chain * S::kLanes, S::kLanes, terms);
    }
    for (; i < count; i += S::kLanes) add(0, i, static_cast<int>(smaller(S::kLanes, count - i)), terms);
  }

  FASTRNN_INLINE T total(int sum) const {
    V lanes = sums_[0][sum];
    for (int chain = 1; chain < kChains; ++chain) lanes += sums_[chain][sum];
    alignas(64) T values[S::kLanes];
    S::store(values, lanes);
    for (int half = S::kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) values[lane] += values[lane + half];
    }
    return values[0];
  }

 private:
  template <class Terms>
  FASTRNN_INLINE void add(int chain, int64_t i, int lanes, const Terms& terms) {
    V out[kSums];
    terms(i, lanes, out);
    for (int k = 0; k < kSums; ++k) {
      if (lanes < S::kLanes) {
        alignas(64) T valid[S::kLanes] = {};
        S::store(valid, out[k], lanes);
        out[k] = S::load(valid);
      }
      sums_[chain][k] += out[k];
    }
  }

  V sums_[kChains][kSums] = {};
};

template <class Isa, class T>
RowNorm<T> norm_of(const T* row, int64_t count) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  RowSums<Isa, T, 1, 4> sum, squares;
  sum.add(count, [&](int64_t i, int lanes, V(&out)[1]) FASTRNN_INLINE_LAMBDA { out[0] = S::load(row + i, lanes); });
  const T mean = sum.total(0) / static_cast<T>(count);
  squares.add(count, [&](int64_t i, int lanes, V(&out)[1]) FASTRNN_INLINE_LAMBDA {
    const V deviation = S::load(row + i, lanes) - mean;
    out[0] = deviation * deviation;
  });
  return {mean, 1 / std::sqrt(squares.total(0) / static_cast<T>(count) + static_cast<T>(kNormEpsilon))};
}

template <class Isa, class T, class Visit>
FASTRNN_INLINE void for_each_vector(int64_t count, const Visit& visit) {
  constexpr int kLanes = Simd<Isa, T>::kLanes;
  for (int64_t i = 0; i < count; i += kLanes) visit(i, static_cast<int>(smaller(kLanes, count - i)));
}

template <class Isa, class T>
FASTRNN_INLINE void add_to(T* sums, int lanes, typename Simd<Isa, T>::V values) {
  using S = Simd<Isa, T>;
  S::store(sums, S::load(sums, lanes) + values, lanes);
}

// Backward of a row of h_t = o * tanh(gain * normal c_t + bias), o the output gate. Non-const pointers are results;
// gradients of gain and bias are accumulated.
template <class T>
struct HiddenRow {
  int64_t hidden;
  const T *c, *output_gate, *gain, *bias, *grad_h;
  T *grad_gain, *grad_bias;
  T* grad_output_gate;  // of its pre-activation
  T* dc;
  T* h;  // or null
};

// Not inlined: it is long, and the same for all cells.
template <class Isa, class T>
void hidden_backward(const HiddenRow<T>& row) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  const RowNorm<T> norm = norm_of<Isa>(row.c, row.hidden);
  RowSums<Isa, T, 2, 1> sums;
  sums.add(row.hidden, [&](int64_t i, int lanes, V(&out)[2]) FASTRNN_INLINE_LAMBDA {
    const V normal = norm(S::load(row.c + i, lanes)), gain = S::load(row.gain + i, lanes);
    const V o = S::load(row.output_gate + i, lanes), inner = normal * gain + S::load(row.bias + i, lanes);
    V of_output;
    const V grad = Lstm::hidden_backward(o, inner, V(S::load(row.grad_h + i, lanes)), of_output);
    S::store(row.grad_output_gate + i, of_output, lanes);
    if (row.h) S::store(row.h + i, Lstm::hidden_of(o, inner), lanes);
    add_to<Isa>(row.grad_gain + i, lanes, grad * normal);
    add_to<Isa>(row.grad_bias + i, lanes, grad);
    out[0] = grad * gain;
    out[1] = out[0] * normal;
    S::store(row.dc + i, out[0], lanes);
  });
  const T count = static_cast<T>(row.hidden), mean_grad = sums.total(0) / count, mean_product = sums.total(1) / count;
  for_each_vector<Isa, T>(row.hidden, [&](int64_t i, int lanes) FASTRNN_INLINE_LAMBDA {
    const V normal = norm(S::load(row.c + i, lanes));
    S::store(row.dc + i, norm.backward(V(S::load(row.dc + i, lanes)), normal, mean_grad, mean_product), lanes);
  });
}

// Backward of a row of a GEMM's result over all gates: from the gradients of the normalised values to those of the
// result.
template <class T>
struct ProductRow {
  int64_t hidden;
  int gates;
  const T *product, *gain;
  const T* grads[kMaxPanelVectors];  // by gate
  T* grad_gain;                      // accumulated into
  T* grad_product;
};

template <class Isa, class T>
void product_backward(const ProductRow<T>& row) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  const int64_t columns = row.gates * row.hidden;
  const RowNorm<T> norm = norm_of<Isa>(row.product, columns);
  RowSums<Isa, T, 2, 2> sums;
  for (int gate = 0; gate < row.gates; ++gate) {
    const int64_t first = gate * row.hidden;
    sums.add(row.hidden, [&](int64_t i, int lanes, V(&out)[2]) FASTRNN_INLINE_LAMBDA {
      const int64_t at = first + i;
      const V normal = norm(S::load(row.product + at, lanes)), grad = S::load(row.grads[gate] + i, lanes);
      add_to<Isa>(row.grad_gain + at, lanes, grad * normal);
      out[0] = grad * S::load(row.gain + at, lanes);
      out[1] = out[0] * normal;
      S::store(row.grad_product + at, out[0], lanes);
    });
  }
  const T count = static_cast<T>(columns), mean_grad = sums.total(0) / count, mean_product = sums.total(1) / count;
  for_each_vector<Isa, T>(columns, [&](int64_t at, int lanes) FASTRNN_INLINE_LAMBDA {
    const V normal = norm(S::load(row.product + at, lanes)), grad = S::load(row.grad_product + at, lanes);
    S::store(row.grad_product + at, norm.backward(grad, normal, mean_grad, mean_product), lanes);
  });
}

}  // namespace fastrnn::cpu
