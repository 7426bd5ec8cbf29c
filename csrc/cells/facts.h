// What the constants of every cell say, as a table for code that learns at run time which cell it serves.
#pragma once

#include "../params.h"
#include "elman.h"
#include "gru.h"
#include "lstm.h"

namespace fastrnn {

constexpr int kMaxGates = 4;

// See cell.h.
struct CellFacts {
  int gates, channels;
  bool has_cell_state, keeps_channels;
  int recurrent_channel[kMaxGates];
};

template <class Cell>
constexpr CellFacts facts_of() {
  CellFacts facts{Cell::kGates, Cell::kChannels, Cell::kHasCellState, Cell::kKeepsChannels, {}};
  for (int gate = 0; gate < Cell::kGates; ++gate) facts.recurrent_channel[gate] = Cell::recurrent_channel(gate);
  return facts;
}

// In the order of CellKind.
constexpr CellFacts kCellFacts[kCellKinds] = {facts_of<Elman<Tanh>>(), facts_of<Elman<Relu>>(), facts_of<Lstm>(),
                                              facts_of<Gru>()};

constexpr const CellFacts& cell_facts(CellKind cell) { return kCellFacts[static_cast<int>(cell)]; }

}  // namespace fastrnn
