// LSTM (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), gates in torch's order i, f, g, o:
//   i, f, o = sigmoid(.), g = tanh(.), each of W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
//   c_t = f * c_{t-1} + i * g,   h_t = o * tanh(c_t)
// Coupled (Greff et al. 2017), f is tied to i: f = 1 - i, and the gates are i, g, o.
// With peepholes (Gers and Schmidhuber 2000), the pre-activations of i and f also include w_ci * c_{t-1} and
// w_cf * c_{t-1}, that of o includes w_co * c_t.
#pragma once

#include "cell.h"

namespace fastrnn {

template <bool kCoupled, bool kPeepholes>
struct LstmCell : CellDefaults {
  static constexpr CellName kName{kCoupled ? "lstm_coupled" : "lstm", kPeepholes ? "_peephole" : ""};
  static constexpr int kInput = 0, kForget = 1;  // if there is one
  static constexpr int kCandidate = kCoupled ? 1 : 2, kOutput = kCandidate + 1;
  static constexpr int kGates = kOutput + 1;
  static constexpr int kSavedValues = kGates;
  static constexpr int kPerUnitWeights = kPeepholes ? kGates - 1 : 0;
  static constexpr int kInputPeephole = 0, kForgetPeephole = 1, kOutputPeephole = kPerUnitWeights - 1;
  static constexpr bool kProjects = true;
  static constexpr int kC = 0, kCellStates = 1;

  // x: W_ih x_t; r: W_hh h_{t-1} and the biases
  template <class V>
  static FASTRNN_INLINE void forward(const V (&x)[kGates], const V (&r)[kGates], Step<V, kSavedValues>& step) {
    V(&gate)[kSavedValues] = step.saved;
    for (int g = 0; g < kGates; ++g) gate[g] = x[g] + r[g];
    if constexpr (kPeepholes) {
      gate[kInput] += step.per_unit_weights[kInputPeephole] * step.cell_prev[kC];
      if constexpr (!kCoupled) gate[kForget] += step.per_unit_weights[kForgetPeephole] * step.cell_prev[kC];
    }
    gate[kInput] = sigmoid<V>(gate[kInput]);
    if constexpr (!kCoupled) gate[kForget] = sigmoid<V>(gate[kForget]);
    gate[kCandidate] = Math<V>::tanh(gate[kCandidate]);
    candidates(step);
    if constexpr (kPeepholes) gate[kOutput] += step.per_unit_weights[kOutputPeephole] * step.cell[kC];
    gate[kOutput] = sigmoid<V>(gate[kOutput]);
    step.h = hidden(step);
  }

  template <class V>
  static FASTRNN_INLINE void backward(const Step<V, kSavedValues>& step,
                                      StepGrad<V, kSavedValues, kPerUnitWeights>& grad) {
    grad.cell[kC] += hidden_backward(step.saved[kOutput], step.cell[kC], grad.h, grad.saved[kOutput]);
    cell_backward(step, grad);
  }

  // The rest of backward, once the gradients of c_t and the output gate are known.
  template <class V>
  static FASTRNN_INLINE void cell_backward(const Step<V, kSavedValues>& step,
                                           StepGrad<V, kSavedValues, kPerUnitWeights>& grad) {
    const V(&gate)[kSavedValues] = step.saved;
    const V c_prev = step.cell_prev[kC];
    V dc = grad.cell[kC];
    if constexpr (kPeepholes) dc += grad.saved[kOutput] * step.per_unit_weights[kOutputPeephole];
    grad.saved[kCandidate] = dc * gate[kInput] * tanh_grad(gate[kCandidate]);
    if constexpr (kCoupled) {
      grad.saved[kInput] = dc * (gate[kCandidate] - c_prev) * sigmoid_grad(gate[kInput]);
    } else {
      grad.saved[kInput] = dc * gate[kCandidate] * sigmoid_grad(gate[kInput]);
      grad.saved[kForget] = dc * c_prev * sigmoid_grad(gate[kForget]);
    }
    dc = dc * forget(step);
    if constexpr (kPeepholes) {
      dc += grad.saved[kInput] * step.per_unit_weights[kInputPeephole];
      grad.per_unit_weights[kInputPeephole] = grad.saved[kInput] * c_prev;
      if constexpr (!kCoupled) {
        dc += grad.saved[kForget] * step.per_unit_weights[kForgetPeephole];
        grad.per_unit_weights[kForgetPeephole] = grad.saved[kForget] * c_prev;
      }
      grad.per_unit_weights[kOutputPeephole] = grad.saved[kOutput] * step.cell[kC];
    }
    grad.cell[kC] = dc;
  }

  template <class V>
  static FASTRNN_INLINE V forget(const Step<V, kSavedValues>& step) {
    if constexpr (kCoupled) return 1 - step.saved[kInput];
    return step.saved[kForget];
  }

  template <class V>
  static FASTRNN_INLINE void candidates(Step<V, kSavedValues>& step) {
    step.cell[kC] = forget(step) * step.cell_prev[kC] + step.saved[kInput] * step.saved[kCandidate];
  }

  // The h that a projection takes as input, recomputed from the reserve.
  template <class V>
  static FASTRNN_INLINE V hidden(const Step<V, kSavedValues>& step) {
    return hidden_of(step.saved[kOutput], step.cell[kC]);
  }

  template <class V>
  static FASTRNN_INLINE V hidden_of(V output_gate, V c) {
    return output_gate * Math<V>::tanh(c);
  }

  // The gradient of that c, given the gradient of h; output_grad: out, that of the output gate's pre-activation
  template <class V>
  static FASTRNN_INLINE V hidden_backward(V output_gate, V c, V h_grad, V& output_grad) {
    const V tanh_c = Math<V>::tanh(c);
    output_grad = h_grad * tanh_c * sigmoid_grad(output_gate);
    return h_grad * output_gate * tanh_grad(tanh_c);
  }
};

struct Lstm : LstmCell<false, false> {};

}  // namespace fastrnn
