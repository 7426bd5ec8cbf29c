// A layer, or several one on another with nothing between them, in one or both directions, as torch calls them: tensors
// in, tensors out.
#pragma once

#include "../params.h"
#include "tensor.h"

namespace fastrnn::ops {

// What a call adds to the plain recurrence; see Extras of params.h. N rows, or (T, B) of padded input.
struct LayerExtras {
  std::optional<Tensor> cuts;              // (D, N) uint8
  std::optional<Tensor> reset_h, reset_c;  // as hx and cx
  std::optional<Tensor> h_mask;            // as hx
  std::optional<Tensor> kept_h, kept_c;    // (D, N, K), (D, N, H)
  double share_h = 0, share_c = 0;         // where the two above are missing
  std::optional<double> clip;              // of backward
  // Activation, of h and of the output, in a cell that does not know its own.
  int64_t activation = 0, output_activation = 0;
  bool cells = false;  // every step's c is wanted
};

// The arguments as every op receives them: of one layer where there are extras, else of as many as hx has rows for.
struct LayerArgs {
  CellKind cell;
  Tensor input;                       // (T, B, I), packed (N, I), or for one step of one layer (B, I)
  Tensor hx;                          // (L*D, B, K); for one step (B, K)
  std::optional<Tensor> cx;           // (L*D, B, H), LSTM only; for one step (B, H)
  std::vector<Tensor> weights;        // w_ih, w_hh, [b_ih, b_hh], [w_hr], [b_hr], and (kUnitWeights, H) of a
                                      // cell that has unit weights, for each layer and in it for each direction
  std::optional<Tensor> batch_sizes;  // (T) int64, non-increasing: rows valid at each time; on the CPU, or on the GPU
                                      // of a padded input, where its values are trusted
  bool bidirectional;
  bool allow_tf32;                 // on a GPU, products of float32 may round their factors to TF32
  std::optional<Tensor> frozen{};  // what CpuLayer::freeze() made of these weights; on the CPU, if nothing is kept
  std::optional<LayerExtras> extras{};
};

struct LayerOutputs {
  Tensor output;                  // of the last layer: (T, B, D*K), packed (N, D*K), or of one step (B, K)
  Tensor hy;                      // as hx
  std::optional<Tensor> cy;       // as cx
  std::optional<Tensor> reserve;  // what backward reads
  std::optional<Tensor> cells{};  // as output, D*H columns: every step's c, if extras ask for it
};

struct LayerGrads {
  std::optional<Tensor> output, hy, cy;  // in
  std::optional<Tensor> cells{};
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
  std::optional<Tensor> reset_h{}, reset_c{};
};

// Layers on the CPU: float32 and float64. If nothing is kept, the weights of float32 data may be bfloat16: the kernels
// read them as they are.
struct CpuLayer {
  static LayerOutputs forward(const LayerArgs& args, bool keep);
  // The recurrent weights and biases of one layer as forward packs them; those of all layers, one after the other, are
  // LayerArgs::frozen.
  static Tensor freeze(CellKind cell, const std::vector<Tensor>& weights, bool bidirectional);
  static LayerInputGrads backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                  const Tensor& reserve, const GradRequest& request);
};

// Layers on a GPU: float32, float64, float16 and bfloat16.
struct CudaLayer {
  static LayerOutputs forward(const LayerArgs& args, bool keep);
  static LayerInputGrads backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                  const Tensor& reserve, const GradRequest& request);
};

}  // namespace fastrnn::ops
