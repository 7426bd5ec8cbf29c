// Simple recurrences whose nonlinearities are chosen at run time. Without a projection:
//   h_t = s_h(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
// With one (Jordan 1986), the output is fed back:
//   h_t = s_h(W_ih x_t + b_ih + W_hh o_{t-1} + b_hh),   o_t = s_o(W_hr h_t + b_hr)
#pragma once

#include "cell.h"

namespace fastrnn {

struct Jordan : CellDefaults {
  static constexpr CellName kName{"jordan"};
  static constexpr int kGates = 1;
  static constexpr int kSavedValues = 1;
  static constexpr bool kProjects = true;
  static constexpr bool kActivatesOutput = true;
  static constexpr bool kReadsSaved = true;  // h, since the output may be a projection of it

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kSavedValues>& step) {
    step.h = step.saved[0] = activate<V>(step.activation, x[0] + r[0]);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>& step, StepGrad<V, kSavedValues>& grad) {
    grad.saved[0] = activate_backward<V>(step.activation, step.saved[0], grad.h);
  }

  template <class V>
  static FASTRNN_INLINE V hidden(const Step<V, kSavedValues>& step) {
    return step.saved[0];
  }
};

}  // namespace fastrnn
