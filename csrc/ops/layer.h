// One layer, one or both directions, as torch calls it: tensors in, tensors out.
#pragma once

#include <tuple>

#include "../params.h"
#include "tensor.h"

namespace fastrnn::ops {

// A layer's arguments as every op receives them.
struct LayerArgs {
  CellKind cell;
  Tensor input;                       // (T, B, I), or packed (N, I)
  Tensor hx;                          // (D, B, K)
  std::optional<Tensor> cx;           // (D, B, H), LSTM only
  std::vector<Tensor> weights;        // w_ih, w_hh, [b_ih, b_hh], [w_hr] for each direction
  std::optional<Tensor> batch_sizes;  // (T) int64, non-increasing: rows valid at each time
  bool bidirectional;
};

struct LayerOutputs {
  Tensor output;             // (T, B, D*K), or packed (N, D*K)
  Tensor hy;                 // (D, B, K)
  std::optional<Tensor> cy;  // (D, B, H)
  Tensor reserve;            // what layer_backward reads; empty unless kept
};

struct LayerGrads {
  std::optional<Tensor> output, hy, cy;  // in
};

// Which gradients are wanted beyond those of the states.
struct GradRequest {
  bool input, weights;
  // 0: one gradient of the weights for the whole batch. Else one for each group, stacked in front: batch row b belongs
  // to group b % groups. That is what per-sample gradients are made of.
  int64_t groups;
};

struct LayerInputGrads {
  Tensor input;  // empty unless asked for
  Tensor hx;
  std::optional<Tensor> cx;
  std::vector<Tensor> weights;  // none unless asked for
};

LayerOutputs layer_forward(const LayerArgs& args, bool keep);

LayerInputGrads layer_backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                               const Tensor& reserve, const GradRequest& request);

}  // namespace fastrnn::ops
