// Elman 1990: h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), act = tanh or relu.
#pragma once

#include "cell.h"

namespace fastrnn {

template <class Activation>
struct Elman : CellDefaults {
  static constexpr CellName kName{"rnn_", Activation::kName};
  static constexpr int kGates = 1;
  static constexpr int kSavedValues = 1;
  static constexpr bool kReadsSaved = false;
  static constexpr bool kReadsH = true;

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kSavedValues>& step) {
    step.h = Activation::forward(x[0] + r[0]);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>& step, StepGrad<V, kSavedValues>& grad) {
    grad.saved[0] = Activation::backward(step.h, grad.h);
  }
};

}  // namespace fastrnn
