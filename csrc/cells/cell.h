// The interface between a cell and the time loops that run it.
//
// A cell is a struct of constants and two functions over a Step<V, kSavedValues>, the values of one hidden unit (V a
// scalar) or of a vector of neighbouring units (V a SIMD vector) at one time step:
//
//   kName               what ops and Python call it
//   kGates              row blocks of w_ih and w_hh, in torch's order
//   kSavedValues        values per unit that backward works on: the gates, and whatever else needs a gradient of its
//                       own. Each has a slot; the gradients in the first kGates slots multiply the input
//
// and of CellDefaults whatever is not the default. A cell whose backward reads the cell states after the step has a
// third function, candidates(step): it computes them from the saved values and the cell states before. Forward uses it,
// and backward where zoneout has blended what is stored. cells/list.h lists the cells; own_cells.h holds those that
// users write.
#pragma once

#include "activations.h"
#include "states.h"

namespace fastrnn {

constexpr int kMaxGates = 9;  // x_t itself included

struct CellDefaults {
  // The last gates, whose GEMM with w_hh has to wait for the other gates, because it takes r * h_{t-1}. A cell with
  // such a gate (at most one) splits the functions into a first and a second pass.
  static constexpr int kSecondPassGates = 0;
  static constexpr int kPerUnitWeights = 0;  // element-wise weights, one per unit (peepholes)
  static constexpr bool kProjects = false;   // may have a projection w_hr; hidden() is then the projection's input
  static constexpr bool kActivatesOutput = false;  // the projection has a bias and a nonlinearity
  // A bit for each gate whose two biases are added separately: b_ih to x, b_hh to r. The others' are both added to r.
  static constexpr unsigned kSeparateBiases = 0;
  static constexpr bool kMultipliesH = true;  // there is a w_hh; else units do not see each other, and r is 0
  // The last gate is no product, but x_t itself, or, where their sizes differ, a product without a bias; w_hh has no
  // rows for it.
  static constexpr bool kReadsInput = false;
  static constexpr int kCellStates = 0;           // states beside h, which w_hh does not multiply; at most 4
  static constexpr bool kReadsSaved = true;       // backward reads the saved values (otherwise h is enough)
  static constexpr bool kReadsPreviousH = false;  // forward and backward read the unit's own h_{t-1}
  static constexpr bool kReadsH = false;          // backward reads h_t
  static constexpr bool kReadsCells = true;       // and the cell states after the step
  static constexpr bool kCarriesH = false;        // part of dh_{t-1} bypasses w_hh
  // The slot whose gradient multiplies h_{t-1} through gate g of w_hh.
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

template <class Cell>
constexpr FASTRNN_INLINE bool has_separate_biases(int gate) {
  return Cell::kSeparateBiases >> gate & 1;
}
template <class Cell>
inline constexpr int kInputGates = Cell::kReadsInput ? 1 : 0;
// Row blocks of w_hh that the first GEMM of a step takes.
template <class Cell>
inline constexpr int kRecurrentGates =
    Cell::kMultipliesH ? Cell::kGates - Cell::kSecondPassGates - kInputGates<Cell> : 0;

template <class V, int kSavedValues>
struct Step {
  V saved[kSavedValues];        // written by forward, read by backward
  V h_prev, h;                  // before the step and after it
  V cell_prev[kMaxCellStates];  // kCellStates of them, before the step
  V cell[kMaxCellStates];       // and after it
  const V* per_unit_weights;    // kPerUnitWeights of them
  Activation activation;        // for cells whose activation is chosen at run time
};

// Gradients flowing through one step. In: those of the states after it. Out: those of the states before it.
template <class V, int kSavedValues, int kPerUnitWeights = 0>
struct StepGrad {
  V saved[kSavedValues];   // out: gradients of the pre-activations
  V h;                     // in: dh_t; out where kCarriesH: the part of dh_{t-1} that bypasses w_hh
  V cell[kMaxCellStates];  // in: without the contribution of h_t; out: whole
  V per_unit_weights[kPerUnitWeights > 0 ? kPerUnitWeights : 1];  // out: the step's contribution
};

}  // namespace fastrnn
