// What the constants of every cell say, as a table for code that learns at run time which cell it serves.
#pragma once

#include "../params.h"
#include "elman.h"
#include "gru.h"
#include "gru_reset_before.h"
#include "jordan.h"
#include "lstm.h"
#include "normalized.h"

namespace fastrnn {

constexpr int kMaxGates = 4;

// See cell.h.
struct CellFacts {
  int gates, channels, late_gates, unit_weights;
  bool has_cell_state, keeps_channels, projects, activates_output;
  int recurrent_channel[kMaxGates];
  // The first of the channels whose gradients are those of b_ih, and for each gate that of b_hh's.
  int bias_channel, recurrent_bias_channel[kMaxGates];
};

template <class Cell>
constexpr CellFacts facts_of() {
  CellFacts facts{Cell::kGates,
                  Cell::kChannels,
                  Cell::kLateGates,
                  Cell::kUnitWeights,
                  Cell::kHasCellState,
                  Cell::kKeepsChannels,
                  Cell::kProjects,
                  Cell::kActivatesOutput,
                  {},
                  kInnerChannel<Cell>,
                  {}};
  for (int gate = 0; gate < Cell::kGates; ++gate) {
    facts.recurrent_channel[gate] = Cell::recurrent_channel(gate);
    facts.recurrent_bias_channel[gate] = kInnerChannel<Cell> + InnerCell<Cell>::recurrent_channel(gate);
  }
  return facts;
}

// In the order of CellKind.
constexpr CellFacts kCellFacts[kCellKinds] = {facts_of<Elman<Tanh>>(),
                                              facts_of<Elman<Relu>>(),
                                              facts_of<Lstm>(),
                                              facts_of<Gru>(),
                                              facts_of<LstmCell<false, true>>(),
                                              facts_of<LstmCell<true, false>>(),
                                              facts_of<LstmCell<true, true>>(),
                                              facts_of<GruResetBefore>(),
                                              facts_of<Jordan>(),
                                              facts_of<Normalized<Elman<Tanh>>>(),
                                              facts_of<Normalized<Elman<Relu>>>(),
                                              facts_of<Normalized<Lstm>>(),
                                              facts_of<Normalized<LstmCell<false, true>>>(),
                                              facts_of<Normalized<LstmCell<true, false>>>(),
                                              facts_of<Normalized<LstmCell<true, true>>>(),
                                              facts_of<Normalized<Gru>>()};

// As fastrnn/reference.py has them.
constexpr const char* kCellNames[kCellKinds] = {"rnn_tanh",
                                                "rnn_relu",
                                                "lstm",
                                                "gru",
                                                "lstm_peephole",
                                                "lstm_coupled",
                                                "lstm_coupled_peephole",
                                                "gru_reset_before",
                                                "jordan",
                                                "rnn_tanh_norm",
                                                "rnn_relu_norm",
                                                "lstm_norm",
                                                "lstm_peephole_norm",
                                                "lstm_coupled_norm",
                                                "lstm_coupled_peephole_norm",
                                                "gru_norm"};

constexpr const CellFacts& cell_facts(CellKind cell) { return kCellFacts[static_cast<int>(cell)]; }
constexpr const char* cell_name(CellKind cell) { return kCellNames[static_cast<int>(cell)]; }

}  // namespace fastrnn
