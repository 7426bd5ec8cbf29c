// The cell states, those beside h: an LSTM's c, for instance.
#pragma once

#include "portable.h"

namespace fastrnn {

constexpr int kMaxCellStates = 4;

// A value for each cell state; null or 0 for those that a cell lacks.
template <class V>
struct CellStates {
  V values[kMaxCellStates];

  FASTRNN_INLINE V& operator[](int state) { return values[state]; }
  FASTRNN_INLINE const V& operator[](int state) const { return values[state]; }
};

}  // namespace fastrnn
