// GRU (Cho et al. 2014) as torch and cuDNN define it, with the reset gate applied after the recurrent GEMM; gates in
// torch's order r, z, n:
//   r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
//   n = tanh(W_in x_t + b_in + r * (W_hn h_{t-1} + b_hn))
//   h_t = (1 - z) * n + z * h_{t-1}
#pragma once

#include "cell.h"

namespace fastrnn {

struct Gru : CellDefaults {
  static constexpr CellName kName{"gru"};
  enum Gate { kReset, kUpdate, kNew };
  // W_hn h_{t-1} + b_hn: its gradient differs from kNew's by the factor r, so it gets a slot of its own.
  static constexpr int kNewRecurrent = 3;
  static constexpr int kGates = 3;
  static constexpr int kSavedValues = 4;
  static constexpr unsigned kSeparateBiases = 1u << kNew;
  static constexpr bool kReadsPreviousH = true;
  static constexpr bool kCarriesH = true;
  static constexpr FASTRNN_INLINE int recurrent_slot(int gate) { return gate == kNew ? kNewRecurrent : gate; }

  // x: W_ih x_t and b_in; r: W_hh h_{t-1} and the other biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kSavedValues>& step) {
    V(&saved)[kSavedValues] = step.saved;
    saved[kReset] = sigmoid<V>(x[kReset] + r[kReset]);
    saved[kUpdate] = sigmoid<V>(x[kUpdate] + r[kUpdate]);
    saved[kNewRecurrent] = r[kNew];
    saved[kNew] = Math<V>::tanh(x[kNew] + saved[kReset] * r[kNew]);
    step.h = saved[kNew] + saved[kUpdate] * (step.h_prev - saved[kNew]);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>& step, StepGrad<V, kSavedValues>& grad) {
    const V(&saved)[kSavedValues] = step.saved;
    const V dn = grad.h * (1 - saved[kUpdate]) * tanh_grad(saved[kNew]);
    grad.saved[kReset] = dn * saved[kNewRecurrent] * sigmoid_grad(saved[kReset]);
    grad.saved[kUpdate] = grad.h * (step.h_prev - saved[kNew]) * sigmoid_grad(saved[kUpdate]);
    grad.saved[kNew] = dn;
    grad.saved[kNewRecurrent] = dn * saved[kReset];
    grad.h = grad.h * saved[kUpdate];
  }
};

}  // namespace fastrnn
