// GRU as Cho et al. 2014 define it, with the reset gate applied before the recurrent GEMM; gates in torch's order r, z,
// n:
//   r, z = sigmoid(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
//   n = tanh(W_in x_t + b_in + W_hn (r * h_{t-1}) + b_hn)
//   h_t = (1 - z) * n + z * h_{t-1}
#pragma once

#include "cell.h"

namespace fastrnn {

struct GruResetBefore : CellDefaults {
  static constexpr CellName kName{"gru_reset_before"};
  enum Gate { kReset, kUpdate, kNew };
  static constexpr int kGates = 3;
  static constexpr int kSavedValues = 3;
  static constexpr int kSecondPassGates = 1;
  static constexpr bool kReadsPreviousH = true;
  static constexpr bool kCarriesH = true;

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases, for r and z
  template <class V>
  static FASTRNN_INLINE void first_pass(const V (&x)[kGates], const V (&r)[kGates - kSecondPassGates],
                                        Step<V, kSavedValues>& step) {
    step.saved[kReset] = sigmoid<V>(x[kReset] + r[kReset]);
    step.saved[kUpdate] = sigmoid<V>(x[kUpdate] + r[kUpdate]);
  }

  // The input of the second GEMM, W_hn (r * h_{t-1}).
  template <class V>
  static FASTRNN_INLINE V second_pass_operand(const Step<V, kSavedValues>& step) {
    return step.saved[kReset] * step.h_prev;
  }

  // x: W_in x_t; r: W_hn (r * h_{t-1}) and the biases
  template <class V>
  static FASTRNN_INLINE void second_pass(V x, V r, Step<V, kSavedValues>& step) {
    step.saved[kNew] = Math<V>::tanh(x + r);
    step.h = step.saved[kNew] + step.saved[kUpdate] * (step.h_prev - step.saved[kNew]);
  }

  // Backward runs in reverse: the values that second_pass() reads get their gradients first.
  template <class V>
  static FASTRNN_INLINE void second_pass_backward(const Step<V, kSavedValues>& step, StepGrad<V, kSavedValues>& grad) {
    const V(&saved)[kSavedValues] = step.saved;
    grad.saved[kUpdate] = grad.h * (step.h_prev - saved[kNew]) * sigmoid_grad(saved[kUpdate]);
    grad.saved[kNew] = grad.h * (1 - saved[kUpdate]) * tanh_grad(saved[kNew]);
    grad.h = grad.h * saved[kUpdate];
  }

  // operand: the gradient of second_pass_operand(); grad.h: out, its contribution to dh_{t-1}
  template <class V>
  static FASTRNN_INLINE void first_pass_backward(V operand, const Step<V, kSavedValues>& step,
                                                 StepGrad<V, kSavedValues>& grad) {
    grad.saved[kReset] = operand * step.h_prev * sigmoid_grad(step.saved[kReset]);
    grad.h = operand * step.saved[kReset];
  }
};

}  // namespace fastrnn
