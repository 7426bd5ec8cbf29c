// Layer normalisation (Ba et al. 2016, arXiv:1607.06450) around a cell: W_ih x_t and W_hh h_{t-1} are each normalised
// over all gates of a batch row and scaled by a gain before their biases are added; c_t is normalised before its tanh,
// with a gain and a bias.
#pragma once

#include "cell.h"

namespace fastrnn {

// Added to the variance.
constexpr double kNormEpsilon = 1e-5;

template <class Cell>
struct Normalized : Cell {
  static constexpr CellName kName{Cell::kName.text, "_norm"};
  static constexpr int kGates = Cell::kGates;
  // Saved values: W_ih x_t, the cell's own, and W_hh h_{t-1}, the first and last as they were before normalisation.
  static constexpr int kInner = kGates;
  static constexpr int kProduct = kInner + Cell::kSavedValues;
  static constexpr int kSavedValues = kProduct + kGates;
  static constexpr bool kReadsSaved = true;
  static constexpr FASTRNN_INLINE int recurrent_slot(int gate) { return kProduct + gate; }

  // After the cell's own per-unit weights: the gains of W_ih x_t and W_hh h_{t-1}, then gain and bias of c.
  static constexpr int kInputGain = Cell::kPerUnitWeights;
  static constexpr int kGain = kInputGain + kGates;
  static constexpr int kCellGain = kGain + kGates;
  static constexpr int kCellBias = kCellGain + 1;
  static constexpr int kPerUnitWeights = kCellGain + (Cell::kCellStates > 0 ? 2 : 0);
  static_assert(Cell::kCellStates <= 1, "layer normalisation is defined for one cell state");
};

// The cell without its normalisation, whose step a loop runs.
template <class Cell>
struct InnerCellOf {
  using Type = Cell;
};
template <class Cell>
struct InnerCellOf<Normalized<Cell>> {
  using Type = Cell;
};
template <class Cell>
using InnerCell = typename InnerCellOf<Cell>::Type;

template <class Cell>
inline constexpr bool kNormalizes = false;
template <class Cell>
inline constexpr bool kNormalizes<Normalized<Cell>> = true;
// First slot of the inner cell's saved values.
template <class Cell>
inline constexpr int kInnerSlot = 0;
template <class Cell>
inline constexpr int kInnerSlot<Normalized<Cell>> = Normalized<Cell>::kInner;
template <class Cell>
inline constexpr bool kNormalizesCell = kNormalizes<Cell> && Cell::kCellStates > 0;

// Statistics of a row: its mean, and the reciprocal of its standard deviation.
template <class A>
struct RowNorm {
  A mean, scale;

  template <class V>
  FASTRNN_INLINE V operator()(V value) const {
    return (value - mean) * scale;
  }

  // The gradient of a value, given the gradient of its normalised value. The means are over the row, of grad and of
  // grad * normal.
  template <class V>
  FASTRNN_INLINE V backward(V grad, V normal, A mean_grad, A mean_product) const {
    return scale * (grad - mean_grad - normal * mean_product);
  }
};

}  // namespace fastrnn
