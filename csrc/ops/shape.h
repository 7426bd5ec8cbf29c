// A layer's sizes, read from its arguments and checked once; nothing below the ops checks again.
#pragma once

#include "../cpu/dispatch.h"
#include "layer.h"

namespace fastrnn::ops {

struct LayerShape {
  int64_t steps, batch, rows;  // T, B, N
  int64_t input_size;          // I
  Dims dims;                   // B, H, K
  int64_t directions;          // D
  bool biases;
  bool padded_ragged;            // (T, B, I) in which some rows end early
  std::vector<int64_t> sizes;    // see Steps; empty for dense batches
  std::vector<int64_t> offsets;  // see Steps; empty unless packed
  ScalarType dtype;

  Steps direction(int64_t d) const {
    return {steps, batch, sizes.empty() ? nullptr : sizes.data(), offsets.empty() ? nullptr : offsets.data(), d == 1};
  }
};

LayerShape check_layer(const LayerArgs& args);

// Where the tensors of one direction lie in LayerArgs::weights.
template <class T>
struct Weights {
  const T *w_ih, *w_hh, *b_ih = nullptr, *b_hh = nullptr, *w_hr = nullptr;

  Weights(const std::vector<Tensor>& contiguous, const LayerShape& shape, int64_t direction) {
    size_t i = contiguous.size() / static_cast<size_t>(shape.directions) * static_cast<size_t>(direction);
    w_ih = data<T>(contiguous[i++]);
    w_hh = data<T>(contiguous[i++]);
    if (shape.biases) {
      b_ih = data<T>(contiguous[i++]);
      b_hh = data<T>(contiguous[i++]);
    }
    if (shape.dims.projected) w_hr = data<T>(contiguous[i]);
  }
};

// How the kernels lay out what forward keeps for backward, for one direction.
template <class T>
struct ReserveLayout {
  int64_t channels, cells;  // values

  ReserveLayout(const cpu::CellKernels<T>& kernels, int64_t rows, int64_t hidden)
      : channels(kernels.keeps_channels ? rows * kernels.channels * hidden : 0),
        cells(kernels.has_cell_state ? rows * hidden : 0) {}
  int64_t size() const { return channels + cells; }
};

cpu::Choice plan_pass(const LayerShape& shape, int gates, int element_size, bool backward);

}  // namespace fastrnn::ops
