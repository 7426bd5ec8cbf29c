// What every cell tells the time loops that run it.
//
// A cell is a struct of constants and two functions over a Step<V, kSavedValues>, the values of one hidden unit (V a
// scalar) or of a vector of neighbouring units (V a SIMD vector) at one time step:
//
//   kName               what ops and Python call it
//   kGates              row blocks of w_ih and w_hh, in torch's order
//   kSavedValues           values per unit that backward is written in: the gates, and what else needs a gradient of
//   its
//                       own; the gradient of saved value g < kGates multiplies the input
//
// and what it has of CellDefaults below that is not the default. cells/list.h names every cell.
#pragma once

#include "activations.h"

namespace fastrnn {

struct CellDefaults {
  // The last gates, whose product with w_hh waits for the others: it takes r * h_{t-1}. A cell with such a gate (there
  // may be one) has the two functions in two parts, early and late.
  static constexpr int kSecondPassGates = 0;
  static constexpr int kPerUnitWeights = 0;        // of each unit, that multiply what the unit itself holds (peepholes)
  static constexpr bool kProjects = false;         // may have a projection w_hr; hidden() is then what that multiplies
  static constexpr bool kActivatesOutput = false;  // the projection has a bias and a nonlinearity
  static constexpr int kSeparateBias = -1;         // the gate whose two biases enter apart
  static constexpr bool kHasCellState = false;     // there is a c beside h
  static constexpr bool kReadsSaved = true;        // backward reads the saved values (else it makes do with h)
  static constexpr bool kReadsPreviousH = false;   // forward and backward read h_{t-1} of the unit itself
  static constexpr bool kReadsH = false;           // backward reads h_t
  static constexpr bool kCarriesH = false;         // part of dh_{t-1} does not pass through w_hh
  // The saved value whose gradient multiplies h_{t-1} through gate g of w_hh.
  static constexpr FASTRNN_INLINE int recurrent_slot(int gate) { return gate; }
};

// A cell's name, composed at compile time.
struct CellName {
  char text[32]{};

  constexpr CellName(const char* name, const char* ending = "") {
    int length = 0;
    for (; *name; ++name) text[length++] = *name;
    for (; *ending; ++ending) text[length++] = *ending;
  }
};

template <class V, int kSavedValues>
struct Step {
  V saved[kSavedValues];      // forward writes them, backward reads them
  V h_prev, c_prev;           // the state the step started from
  V h, c;                     // the state it ended with
  const V* per_unit_weights;  // kPerUnitWeights of them
  Activation activation;      // of a cell that does not know its own
};

// Gradients that flow through one step: in, those of h_t and c_t; out, those of h_{t-1} and c_{t-1}.
template <class V, int kSavedValues>
struct StepGrad {
  V saved[kSavedValues];  // out: gradients before the activations
  V h;                    // in: dh_t; out where kCarriesH: the part of dh_{t-1} that bypasses w_hh
  V c;                    // in: dc_t without what comes from h_t; out: dc_{t-1}
};

}  // namespace fastrnn
