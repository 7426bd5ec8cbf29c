// LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), gates in torch's order i, f, g, o:
//   i, f, o = sigmoid(.), g = tanh(.), each of W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
//   c_t = f * c_{t-1} + i * g,   h_t = o * tanh(c_t)
#pragma once

#include "cell.h"

namespace fastrnn {

struct Lstm {
  enum Gate { kInput, kForget, kCandidate, kOutput };
  static constexpr int kGates = 4;
  static constexpr int kChannels = 4;
  static constexpr int kApartBias = -1;
  static constexpr bool kHasCellState = true;
  static constexpr bool kKeepsChannels = true;
  static constexpr bool kReadsPreviousH = false;
  static constexpr bool kReadsH = false;
  static constexpr bool kCarriesH = false;
  static constexpr FASTRNN_INLINE int recurrent_channel(int gate) { return gate; }

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kChannels>& step) {
    V(&gate)[kChannels] = step.channels;
    gate[kInput] = sigmoid<V>(x[kInput] + r[kInput]);
    gate[kForget] = sigmoid<V>(x[kForget] + r[kForget]);
    gate[kCandidate] = Math<V>::tanh(x[kCandidate] + r[kCandidate]);
    gate[kOutput] = sigmoid<V>(x[kOutput] + r[kOutput]);
    step.c = gate[kForget] * step.c_prev + gate[kInput] * gate[kCandidate];
    step.h = gate[kOutput] * Math<V>::tanh(step.c);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kChannels>& step, StepGrad<V, kChannels>& grad) {
    const V(&gate)[kChannels] = step.channels;
    const V tanh_c = Math<V>::tanh(step.c);
    const V dc = grad.c + grad.h * gate[kOutput] * tanh_grad(tanh_c);
    grad.channels[kInput] = dc * gate[kCandidate] * sigmoid_grad(gate[kInput]);
    grad.channels[kForget] = dc * step.c_prev * sigmoid_grad(gate[kForget]);
    grad.channels[kCandidate] = dc * gate[kInput] * tanh_grad(gate[kCandidate]);
    grad.channels[kOutput] = grad.h * tanh_c * sigmoid_grad(gate[kOutput]);
    grad.c = dc * gate[kForget];
  }

  // c_t before anything is done to it, computed again from what the reserve holds.
  template <class V>
  static FASTRNN_INLINE V candidate_c(const Step<V, kChannels>& step) {
    return step.channels[kForget] * step.c_prev + step.channels[kInput] * step.channels[kCandidate];
  }

  // The h that a projection would see, computed again from what the reserve holds.
  template <class V>
  static FASTRNN_INLINE V hidden(const Step<V, kChannels>& step) {
    return step.channels[kOutput] * Math<V>::tanh(step.c);
  }
};

}  // namespace fastrnn
