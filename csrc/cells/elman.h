// Elman 1990: h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), act = tanh or relu.
#pragma once

#include "cell.h"

namespace fastrnn {

template <class Activation>
struct Elman {
  static constexpr int kGates = 1;
  static constexpr int kChannels = 1;
  static constexpr int kLateGates = 0;
  static constexpr int kUnitWeights = 0;
  static constexpr bool kProjects = false;
  static constexpr bool kActivatesOutput = false;
  static constexpr int kApartBias = -1;
  static constexpr bool kHasCellState = false;
  static constexpr bool kKeepsChannels = false;
  static constexpr bool kReadsPreviousH = false;
  static constexpr bool kReadsH = true;
  static constexpr bool kCarriesH = false;
  static constexpr FASTRNN_INLINE int recurrent_channel(int gate) { return gate; }

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kChannels>& step) {
    step.h = Activation::forward(x[0] + r[0]);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kChannels>& step, StepGrad<V, kChannels>& grad) {
    grad.channels[0] = Activation::backward(step.h, grad.h);
  }
};

}  // namespace fastrnn
