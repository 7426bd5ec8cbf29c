// A layer, or several one on another with nothing between them, in one or both directions, as torch calls them: tensors
// in, tensors out.
#pragma once

#include <algorithm>
#include <string>

#include "../params.h"
#include "../pass_words.h"
#include "tensor.h"

namespace fastrnn::ops {

// What a call adds to the plain recurrence; see Extras of params.h. N rows, or (T, B) of padded input.
struct LayerExtras {
  std::vector<Tensor> reset_states;  // as LayerArgs::states, or none
  std::optional<Tensor> cuts;        // (D, N) uint8
  std::optional<Tensor> h_mask;      // as hx
  std::vector<Tensor> kept;          // of each state (D, N, its size), or empty; or none
  std::vector<double> shares;        // of each state, where what is kept of it is missing; or none
  std::optional<double> clip;        // of backward
  bool cells = false;                // every step's cell states are wanted
  std::vector<int64_t> activations;  // Activation, of h and of the output, where the cell is told them; or none

  bool any() const {
    const auto is_some = [](double share) { return share != 0; };
    return resets() || cuts || h_mask || !kept.empty() || std::any_of(shares.begin(), shares.end(), is_some) || clip ||
           cells;
  }
  bool resets() const { return !reset_states.empty(); }
  std::optional<Tensor> kept_of(size_t state) const {
    if (state < kept.size() && kept[state].numel() > 0) return kept[state];
    return {};
  }
  double share_of(size_t state) const { return state < shares.size() ? shares[state] : 0; }
  Activation activation(size_t index) const {
    return index < activations.size() ? static_cast<Activation>(activations[index]) : Activation::kIdentity;
  }
};

// The arguments as every op receives them: of one layer where there are extras, else of as many as hx has rows for.
struct LayerArgs {
  CellKind cell;
  Tensor input;                       // (T, B, I), packed (N, I), or for one step of one layer (B, I)
  std::vector<Tensor> states;         // hx (L*D, B, K), for one step (B, K), and the cell states, with H for K
  std::vector<Tensor> weights;        // w_ih, w_hh, [b_ih, b_hh], [w_hr], [b_hr], and (kPerUnitWeights, H) of a
                                      // cell that has per-unit weights, for each layer and in it for each direction
  std::optional<Tensor> batch_sizes;  // (T) int64, non-increasing: rows valid at each time; on the CPU, or on the GPU
                                      // of a padded input, where its values are trusted
  bool bidirectional;
  bool allow_tf32;                 // on a GPU, products of float32 may round their factors to TF32
  std::optional<Tensor> frozen{};  // what CpuLayer::freeze() made of these weights; on the CPU, if nothing is kept
  std::optional<LayerExtras> extras{};

  const Tensor& hx() const { return states[0]; }
};

struct LayerOutputs {
  Tensor output;                  // of the last layer: (T, B, D*K), packed (N, D*K), or of one step (B, K)
  std::vector<Tensor> states;     // as LayerArgs::states
  std::optional<Tensor> reserve;  // what backward reads
  std::optional<Tensor> cells{};  // as output, D*H columns for each cell state: after every step, if extras ask for it
};

struct LayerGrads {
  std::optional<Tensor> output;
  std::vector<std::optional<Tensor>> states;
  std::optional<Tensor> cells{};

  std::optional<Tensor> state(size_t index) const { return index < states.size() ? states[index] : std::nullopt; }
};

// Which gradients are wanted beyond those of the states.
struct GradRequest {
  bool input, weights;
  // 0: one gradient of the weights for the whole batch. Else one for each group, stacked in front: batch row b belongs
  // to group b % groups. That is what per-sample gradients are made of.
  int64_t groups;
};

struct LayerInputGrads {
  Tensor input;                              // empty unless asked for
  std::vector<Tensor> states, reset_states;  // as given
  std::vector<Tensor> weights;               // none unless asked for
};

// How a pass will run, for those who ask; see Row in fastrnn/explain.py.
struct PassPlan {
  Path path;
  int64_t architecture = 0;  // of a GPU: 90 for sm_90
  int64_t tile_rows = 0, tile_columns = 0;
  int64_t threads = 0;
  int64_t weights = -1;        // a cpu::WeightSource,
  int64_t input_product = -1;  // an InputProduct,
  int64_t gemm = -1;           // a cpu::GemmCode; each -1 where there is nothing to say
  std::vector<Reason> reasons;
};

// Layers on the CPU: float32 and float64. If nothing is kept, the weights of float32 data may be bfloat16: the kernels
// read them as they are.
struct CpuLayer {
  static LayerOutputs forward(const LayerArgs& args, bool keep);
  // The recurrent weights and biases of one layer as forward packs them; those of all layers, one after the other, are
  // LayerArgs::frozen.
  //
  // narrowed: the matrices have been rounded to bfloat16 or 8-bit integers, biases are float, and w_ih is packed, too.
  // The result has the matrices' dtype, by which forward knows, and then reads none of LayerArgs::weights but biases.
  // scales: of each row of a direction's w_ih, w_hh and w_hr, one direction after the other; for integers alone.
  static Tensor freeze(CellKind cell, const std::vector<Tensor>& weights, bool bidirectional, bool narrowed,
                       const std::vector<Tensor>& scales);
  static LayerInputGrads backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                  const Tensor& reserve, const GradRequest& request);
  static PassPlan plan(const LayerArgs& args, bool backward);
};

// Layers of meta tensors: nothing runs.
struct MetaLayer {
  static PassPlan plan(const LayerArgs&, bool) { return {.path = Path::kNone, .reasons = {Reason::kMeta}}; }
};

// Layers on a GPU: float32, float64, float16 and bfloat16.
struct CudaLayer {
  static LayerOutputs forward(const LayerArgs& args, bool keep);
  static LayerInputGrads backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                                  const Tensor& reserve, const GradRequest& request);
  static PassPlan plan(const LayerArgs& args, bool backward);
};

}  // namespace fastrnn::ops
