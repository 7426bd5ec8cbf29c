// What layer normalisation (cells/normalized.h) asks of whole batch rows: their means, and what follows from them. The
// order of all sums is fixed, whatever thread runs a row.
#pragma once

#include <cmath>

#include "../cells/normalized.h"
#include "panels.h"

namespace fastrnn::cpu {

// sums[k] += terms(i, lanes, out)'s out[k] over all vectors of a row of `count` values. kChains vectors are under way
// at once: additions wait for one another, and short terms leave nothing else to do.
template <class Isa, class T, int kChains, int kSums, class Terms>
FASTRNN_INLINE void sum_row(T (&sums)[kSums], int64_t count, const Terms& terms) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  V total[kChains][kSums] = {};
  int64_t i = 0;
  const auto add = [&](int chain, int lanes) FASTRNN_INLINE_LAMBDA {
    V out[kSums];
    terms(i + chain * S::kLanes, lanes, out);
    for (int k = 0; k < kSums; ++k) {
      if (lanes < S::kLanes) {
        alignas(64) T valid[S::kLanes] = {};
        S::store(valid, out[k], lanes);
        out[k] = S::load(valid);
      }
      total[chain][k] += out[k];
    }
  };
  for (; i + kChains * S::kLanes <= count; i += kChains * S::kLanes) {
    for (int chain = 0; chain < kChains; ++chain) add(chain, S::kLanes);
  }
  for (; i < count; i += S::kLanes) add(0, static_cast<int>(smaller(S::kLanes, count - i)));
  for (int k = 0; k < kSums; ++k) {
    for (int chain = 1; chain < kChains; ++chain) total[0][k] += total[chain][k];
    for (int lane = 0; lane < S::kLanes; ++lane) sums[k] += total[0][k][lane];
  }
}

template <class Isa, class T>
FASTRNN_INLINE RowNorm<T> norm_of(const T* row, int64_t count) {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  T sum[1] = {}, squares[1] = {};
  sum_row<Isa, T, 4>(sum, count,
                     [&](int64_t i, int lanes, V(&out)[1]) FASTRNN_INLINE_LAMBDA { out[0] = S::load(row + i, lanes); });
  const T mean = sum[0] / static_cast<T>(count);
  sum_row<Isa, T, 4>(squares, count, [&](int64_t i, int lanes, V(&out)[1]) FASTRNN_INLINE_LAMBDA {
    const V deviation = S::load(row + i, lanes) - mean;
    out[0] = deviation * deviation;
  });
  return {mean, 1 / std::sqrt(squares[0] / static_cast<T>(count) + static_cast<T>(kNormEpsilon))};
}

// Where the gradients of a cell with normalisation pass from sums over units to one row's. All pointers are a row's.
template <class Isa, class Cell, class T>
struct NormRow {
  using S = Simd<Isa, T>;
  using V = typename S::V;
  using Inner = InnerCell<Cell>;

  int64_t hidden;
  const T* weights;  // (kUnitWeights, H)
  T* grad_weights;   // (kUnitWeights, H): gradients are added

  // From the gradient of h_t = o * tanh(normal c_t) to that of the output gate's sum, and dc, the part of that of c_t.
  // operand, if not null: out, h_t.
  FASTRNN_INLINE void hidden_backward(const T* c, const T* output_gate, const T* grad_h, T* grad_output, T* dc,
                                      T* operand) const {
    const T *gain = weights + Cell::kCellGain * hidden, *bias = weights + Cell::kCellBias * hidden;
    const RowNorm<T> norm = norm_of<Isa>(c, hidden);
    T sums[2] = {};
    sum_row<Isa, T, 1>(sums, hidden, [&](int64_t i, int lanes, V(&out)[2]) FASTRNN_INLINE_LAMBDA {
      const V normal = norm(S::load(c + i, lanes)), o = S::load(output_gate + i, lanes);
      const V inner = normal * S::load(gain + i, lanes) + S::load(bias + i, lanes);
      V of_output;
      const V grad = Inner::hidden_backward(o, inner, V(S::load(grad_h + i, lanes)), of_output);
      S::store(grad_output + i, of_output, lanes);
      if (operand) S::store(operand + i, Inner::hidden_of(o, inner), lanes);
      add_grad(Cell::kCellGain, i, lanes, grad * normal);
      add_grad(Cell::kCellBias, i, lanes, grad);
      out[0] = grad * S::load(gain + i, lanes);
      out[1] = out[0] * normal;
      S::store(dc + i, out[0], lanes);
    });
    const T mean_grad = sums[0] / static_cast<T>(hidden), mean_product = sums[1] / static_cast<T>(hidden);
    for_each_vector([&](int64_t i, int lanes) FASTRNN_INLINE_LAMBDA {
      const V normal = norm(S::load(c + i, lanes));
      S::store(dc + i, norm.backward(V(S::load(dc + i, lanes)), normal, mean_grad, mean_product), lanes);
    });
  }

  // From the gradients of what W_ih x and W_hh h became, in the cell's own channels, to those of the products.
  FASTRNN_INLINE void input_backward(const T* product, T* grad_channels) const {
    const auto own = [](int gate) FASTRNN_INLINE_LAMBDA { return Cell::kInner + gate; };
    product_backward(product, grad_channels, own, grad_channels, Cell::kInputGain);
  }
  FASTRNN_INLINE void product_backward(const T* product, T* grad_channels) const {
    const auto own = [](int gate) FASTRNN_INLINE_LAMBDA { return Cell::kInner + Inner::recurrent_channel(gate); };
    product_backward(product, grad_channels, own, grad_channels + Cell::kProduct * hidden, Cell::kGain);
  }

  template <class Visit>
  FASTRNN_INLINE void for_each_vector(const Visit& visit) const {
    for (int64_t i = 0; i < hidden; i += S::kLanes) visit(i, static_cast<int>(smaller(S::kLanes, hidden - i)));
  }

 private:
  template <class Channel>
  FASTRNN_INLINE void product_backward(const T* product, const T* grad_channels, const Channel& channel,
                                       T* grad_product, int gain) const {
    const RowNorm<T> norm = norm_of<Isa>(product, Cell::kGates * hidden);
    T sums[2] = {};
    for (int gate = 0; gate < Cell::kGates; ++gate) {
      const T *grads = grad_channels + channel(gate) * hidden, *gains = weights + (gain + gate) * hidden;
      const int64_t at = gate * hidden;
      sum_row<Isa, T, 2>(sums, hidden, [&](int64_t i, int lanes, V(&out)[2]) FASTRNN_INLINE_LAMBDA {
        const V normal = norm(S::load(product + at + i, lanes)), grad = S::load(grads + i, lanes);
        add_grad(gain + gate, i, lanes, grad * normal);
        out[0] = grad * S::load(gains + i, lanes);
        out[1] = out[0] * normal;
        S::store(grad_product + at + i, out[0], lanes);
      });
    }
    const T count = static_cast<T>(Cell::kGates * hidden), mean_grad = sums[0] / count, mean_product = sums[1] / count;
    for (int64_t at = 0; at < Cell::kGates * hidden; at += hidden) {
      for_each_vector([&](int64_t i, int lanes) FASTRNN_INLINE_LAMBDA {
        const V normal = norm(S::load(product + at + i, lanes)), grad = S::load(grad_product + at + i, lanes);
        S::store(grad_product + at + i, norm.backward(grad, normal, mean_grad, mean_product), lanes);
      });
    }
  }

  FASTRNN_INLINE void add_grad(int weight, int64_t unit, int lanes, V grad) const {
    T* sum = grad_weights + weight * hidden + unit;
    S::store(sum, S::load(sum, lanes) + grad, lanes);
  }
};

}  // namespace fastrnn::cpu
