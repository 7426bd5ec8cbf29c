// Every cell, once. Whatever there is for each of them is made from this list and in its order: kernels, facts, names;
// Python reads it from fastrnn._C.cells.
#pragma once

#include "elman.h"
#include "gru.h"
#include "gru_reset_before.h"
#include "jordan.h"
#include "lstm.h"
#include "normalized.h"

namespace fastrnn {

template <class... Cells>
struct CellList {
  static constexpr int kCount = sizeof...(Cells);
};

// The cells that torch.nn has, too: loops without extras, weights packed ahead or in bfloat16, and on a GPU kernels for
// the whole sequence.
using PlainCells = CellList<Elman<Tanh>, Elman<Relu>, Lstm, Gru>;
// The others run in the loops for extras alone.
using ExtendedCells = CellList<LstmCell<false, true>,              // peepholes
                               LstmCell<true, false>,              // coupled
                               LstmCell<true, true>,               //
                               GruResetBefore,                     //
                               Jordan,                             //
                               Normalized<Elman<Tanh>>,            //
                               Normalized<Elman<Relu>>,            //
                               Normalized<Lstm>,                   //
                               Normalized<LstmCell<false, true>>,  //
                               Normalized<LstmCell<true, false>>,  //
                               Normalized<LstmCell<true, true>>,   //
                               Normalized<Gru>>;

}  // namespace fastrnn
