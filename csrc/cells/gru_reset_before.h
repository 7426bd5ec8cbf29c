// GRU as Cho et al. 2014 define it, the reset gate applied before the recurrent product; gates in torch's order r, z,
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
  static constexpr int kChannels = 3;
  static constexpr int kLateGates = 1;
  static constexpr bool kReadsPreviousH = true;
  static constexpr bool kCarriesH = true;

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases, of r and z
  template <class V>
  static FASTRNN_INLINE void early(const V (&x)[kGates], const V (&r)[kGates - kLateGates], Step<V, kChannels>& step) {
    step.channels[kReset] = sigmoid<V>(x[kReset] + r[kReset]);
    step.channels[kUpdate] = sigmoid<V>(x[kUpdate] + r[kUpdate]);
  }

  // What w_hh multiplies for n.
  template <class V>
  static FASTRNN_INLINE V late_operand(const Step<V, kChannels>& step) {
    return step.channels[kReset] * step.h_prev;
  }

  // x: W_in x_t; r: W_hn (r * h_{t-1}) and the biases
  template <class V>
  static FASTRNN_INLINE void late(V x, V r, Step<V, kChannels>& step) {
    step.channels[kNew] = Math<V>::tanh(x + r);
    step.h = step.channels[kNew] + step.channels[kUpdate] * (step.h_prev - step.channels[kNew]);
  }

  // Backward runs the other way: what late() reads of the step has its gradient first.
  template <class V>
  static FASTRNN_INLINE void late_backward(const Step<V, kChannels>& step, StepGrad<V, kChannels>& grad) {
    const V(&channel)[kChannels] = step.channels;
    grad.channels[kUpdate] = grad.h * (step.h_prev - channel[kNew]) * sigmoid_grad(channel[kUpdate]);
    grad.channels[kNew] = grad.h * (1 - channel[kUpdate]) * tanh_grad(channel[kNew]);
    grad.h = grad.h * channel[kUpdate];
  }

  // operand: the gradient of late_operand(); grad.h: out, what it adds to dh_{t-1}
  template <class V>
  static FASTRNN_INLINE void early_backward(V operand, const Step<V, kChannels>& step, StepGrad<V, kChannels>& grad) {
    grad.channels[kReset] = operand * step.h_prev * sigmoid_grad(step.channels[kReset]);
    grad.h = operand * step.channels[kReset];
  }
};

}  // namespace fastrnn
