// The constants of every cell of the list as a table, for code that learns only at run time which cell it runs.
#pragma once

#include <type_traits>

#include "../params.h"
#include "list.h"

namespace fastrnn {

// See cell.h.
struct CellFacts {
  CellName name, inner_name;  // the second without layer normalisation
  int gates, saved_values, second_pass_gates;
  int per_unit_weights, inner_per_unit_weights;  // the second without those of layer normalisation
  bool plain;                                    // one of PlainCells
  int cell_states;                               // beside h
  bool reads_saved, projects, activates_output;
  bool multiplies_h, reads_input;
  int recurrent_slot[kMaxGates];
  // Slots of the bias gradients: the first one of b_ih's, and for each gate that of b_hh's.
  int bias_slot, recurrent_bias_slot[kMaxGates];

  constexpr int states() const { return 1 + cell_states; }
  constexpr int input_gates() const { return reads_input ? 1 : 0; }
  // Gates with biases, and row blocks in w_hh.
  constexpr int product_gates() const { return gates - input_gates(); }
};

template <class Cell>
constexpr CellFacts facts_of(bool plain) {
  CellFacts facts{.name = Cell::kName,
                  .inner_name = InnerCell<Cell>::kName,
                  .gates = Cell::kGates,
                  .saved_values = Cell::kSavedValues,
                  .second_pass_gates = Cell::kSecondPassGates,
                  .per_unit_weights = Cell::kPerUnitWeights,
                  .inner_per_unit_weights = InnerCell<Cell>::kPerUnitWeights,
                  .plain = plain,
                  .cell_states = Cell::kCellStates,
                  .reads_saved = Cell::kReadsSaved,
                  .projects = Cell::kProjects,
                  .activates_output = Cell::kActivatesOutput,
                  .multiplies_h = Cell::kMultipliesH,
                  .reads_input = Cell::kReadsInput,
                  .recurrent_slot = {},
                  .bias_slot = kInnerSlot<Cell>,
                  .recurrent_bias_slot = {}};
  static_assert(Cell::kGates <= kMaxGates);
  static_assert(Cell::kCellStates <= kMaxCellStates);
  static_assert(Cell::kCellStates == 0 || Cell::kSecondPassGates == 0, "a second pass does not pass on cell states");
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    facts.recurrent_slot[gate] = Cell::recurrent_slot(gate);
    facts.recurrent_bias_slot[gate] = kInnerSlot<Cell> + InnerCell<Cell>::recurrent_slot(gate);
  }
  return facts;
}

struct FactsTable {
  CellFacts facts[PlainCells::kCount + ExtendedCells::kCount];
};

template <class... Plain, class... Extended>
constexpr FactsTable make_facts(CellList<Plain...>, CellList<Extended...>) {
  return {{facts_of<Plain>(true)..., facts_of<Extended>(false)...}};
}

constexpr FactsTable kCellFacts = make_facts(PlainCells{}, ExtendedCells{});

template <class Cell, class... Others>
constexpr int place_in(CellList<Others...>) {
  int place = 0;
  const bool found = ((std::is_same_v<Cell, Others> || (++place, false)) || ...);
  return found ? place : -1;
}

// Of a cell known at compile time.
template <class Cell>
constexpr CellKind kind_of() {
  constexpr int plain = place_in<Cell>(PlainCells{});
  constexpr int place = plain >= 0 ? plain : PlainCells::kCount + place_in<Cell>(ExtendedCells{});
  static_assert(place >= PlainCells::kCount || plain >= 0, "the cell is in no list of cells/list.h");
  return static_cast<CellKind>(place);
}

}  // namespace fastrnn
