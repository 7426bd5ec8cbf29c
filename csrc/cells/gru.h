// GRU (Cho et al. 2014) as torch and cuDNN define it, the reset gate applied after the recurrent product; gates in
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
  // W_hn h_{t-1} + b_hn: its gradient differs from kNew's by the factor r, so it has a channel of its own.
  static constexpr int kNewRecurrent = 3;
  static constexpr int kGates = 3;
  static constexpr int kChannels = 4;
  static constexpr int kApartBias = kNew;
  static constexpr bool kReadsPreviousH = true;
  static constexpr bool kCarriesH = true;
  static constexpr FASTRNN_INLINE int recurrent_channel(int gate) { return gate == kNew ? kNewRecurrent : gate; }

  // x: W_ih x_t and b_in; r: W_hh h_{t-1} and the other biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kChannels>& step) {
    V(&channel)[kChannels] = step.channels;
    channel[kReset] = sigmoid<V>(x[kReset] + r[kReset]);
    channel[kUpdate] = sigmoid<V>(x[kUpdate] + r[kUpdate]);
    channel[kNewRecurrent] = r[kNew];
    channel[kNew] = Math<V>::tanh(x[kNew] + channel[kReset] * r[kNew]);
    step.h = channel[kNew] + channel[kUpdate] * (step.h_prev - channel[kNew]);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kChannels>& step, StepGrad<V, kChannels>& grad) {
    const V(&channel)[kChannels] = step.channels;
    const V dn = grad.h * (1 - channel[kUpdate]) * tanh_grad(channel[kNew]);
    grad.channels[kReset] = dn * channel[kNewRecurrent] * sigmoid_grad(channel[kReset]);
    grad.channels[kUpdate] = grad.h * (step.h_prev - channel[kNew]) * sigmoid_grad(channel[kUpdate]);
    grad.channels[kNew] = dn;
    grad.channels[kNewRecurrent] = dn * channel[kReset];
    grad.h = grad.h * channel[kUpdate];
  }
};

}  // namespace fastrnn
