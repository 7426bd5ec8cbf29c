// What every cell tells the time loops that run it.
//
// A cell is a struct of constants and two functions over a Step<V, kChannels>, the values of one hidden unit (V a
// scalar) or of a vector of neighbouring units (V a SIMD vector) at one time step:
//
//   kGates              row blocks of w_ih and w_hh, in torch's order
//   kChannels           values per unit that backward is written in: the gates, and what else needs a gradient of its
//                       own; the gradient of channel g < kGates multiplies the input
//   recurrent_channel   channel whose gradient multiplies h_{t-1} through gate g of w_hh
//   kLateGates          the last gates, whose product with w_hh waits for the others: it takes r * h_{t-1}. A cell with
//                       such a gate (there may be one) has the functions below in two parts, early and late
//   kUnitWeights        weights of which each unit has one, that multiply what the unit itself holds (peepholes)
//   kProjects           it may have a projection w_hr; hidden() is then what that multiplies
//   kActivatesOutput    the projection has a bias and a nonlinearity
//   kApartBias          the gate whose two biases enter apart, or -1
//   kHasCellState       there is a c beside h
//   kKeepsChannels      backward reads the channels (else it makes do with h)
//   kReadsPreviousH     forward and backward read h_{t-1} of the unit itself
//   kReadsH             backward reads h_t
//   kCarriesH           part of dh_{t-1} does not pass through w_hh
#pragma once

#include "activations.h"

namespace fastrnn {

template <class V, int kChannels>
struct Step {
  V channels[kChannels];  // forward writes them, backward reads them
  V h_prev, c_prev;       // the state the step started from
  V h, c;                 // the state it ended with
  const V* unit_weights;  // kUnitWeights of them
  Activation activation;  // of a cell that does not know its own
};

// Gradients that flow through one step: in, those of h_t and c_t; out, those of h_{t-1} and c_{t-1}.
template <class V, int kChannels>
struct StepGrad {
  V channels[kChannels];  // out: gradients before the activations
  V h;                    // in: dh_t; out where kCarriesH: the part of dh_{t-1} that bypasses w_hh
  V c;                    // in: dc_t without what comes from h_t; out: dc_{t-1}
};

}  // namespace fastrnn
