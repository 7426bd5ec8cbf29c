// The sizes of a call's layers, read from its arguments and checked once; nothing below the ops checks again.
#pragma once

#include <algorithm>

#include "../cells/registry.h"
#include "layer.h"

namespace fastrnn::ops {

inline Tensor converted(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// One direction of one layer; `index` is its place among all of the call, as torch.nn orders states and weights: layer
// by layer, in each the reverse direction behind the other.
struct Recurrence {
  int64_t layer, direction, index;
};

// How many layers, and directions of each, run at the same time.
struct AtOnce {
  int64_t layers, directions;

  int64_t count() const { return layers * directions; }
};

struct LayerShape {
  int64_t steps, batch, rows;  // T, B, N
  int64_t first_input_size;    // I
  Dims dims;                   // B, H, K
  int64_t layers, directions;  // L, D
  int64_t columns;             // G*H: rows of w_ih and w_hh
  bool biases;
  bool projection_bias;
  bool multiplies_h;                      // there is a w_hh, and with it a b_hh
  bool reads_input;                       // see CellDefaults::kReadsInput
  int64_t per_unit_weights;               // of each unit
  bool single_step;                       // (B, I), and states without a dimension for directions
  bool frozen;                            // LayerArgs::frozen holds the recurrent weights, packed
  bool padded_ragged;                     // (T, B, I) in which some rows end early
  std::vector<int64_t> sizes;             // see Steps; empty for dense batches
  std::vector<int64_t> offsets;           // see Steps; empty unless packed
  const int64_t* device_sizes = nullptr;  // see Steps
  ScalarType dtype;
  // Values of `frozen` for each direction of the first layer, and of each layer above.
  int64_t frozen_first = 0, frozen_upper = 0;

  int64_t frozen_offset(int64_t index) const {
    return index < directions ? index * frozen_first : directions * frozen_first + (index - directions) * frozen_upper;
  }
  int64_t recurrences() const { return layers * directions; }
  Recurrence recurrence(int64_t layer, int64_t direction) const {
    return {layer, direction, layer * directions + direction};
  }
  // Of a layer's output, which is the next one's input.
  int64_t output_columns() const { return directions * dims.recurrent_size; }
  int64_t input_size(int64_t layer) const { return layer == 0 ? first_input_size : output_columns(); }
  int64_t largest_input_size() const { return std::max(first_input_size, layers > 1 ? output_columns() : 0); }
  // Whether an input of so many features is a gate as it is, for which w_ih has no rows.
  bool copies_input(int64_t size) const { return reads_input && size == dims.hidden_size; }
  // Features of the state that stands at this place of LayerArgs::states.
  int64_t state_size(size_t place) const { return place == 0 ? dims.recurrent_size : dims.hidden_size; }
  // Of hx and its kin.
  std::vector<int64_t> state_sizes(int64_t features) const {
    if (single_step) return {batch, features};
    return {recurrences(), batch, features};
  }
  bool dense() const { return sizes.empty() && !device_sizes; }
  Steps direction(int64_t d) const {
    return {steps,  batch,       sizes.empty() ? nullptr : sizes.data(), offsets.empty() ? nullptr : offsets.data(),
            d == 1, device_sizes};
  }
};

// Where the host does not read batch_sizes, they are left to the kernels: they lie on a GPU, and reading them would
// wait for it. Weights have the input's dtype, unless others are named.
struct WeightTypes {
  ScalarType matrices, biases;
};
LayerShape check_layer(const LayerArgs& args, bool sizes_read_by_host, std::optional<WeightTypes> types = {});

// Where the tensors of one recurrence lie in LayerArgs::weights; W is the matrices' type.
template <class T, class W = T>
struct Weights {
  const W *w_ih, *w_hh = nullptr, *w_hr = nullptr;
  const T *b_ih = nullptr, *b_hh = nullptr, *b_hr = nullptr, *per_unit_weights = nullptr;

  Weights(const std::vector<Tensor>& dense, const LayerShape& shape, int64_t index) {
    size_t i = dense.size() / static_cast<size_t>(shape.recurrences()) * static_cast<size_t>(index);
    w_ih = data<W>(dense[i++]);
    if (shape.multiplies_h) w_hh = data<W>(dense[i++]);
    if (shape.biases) b_ih = data<T>(dense[i++]);
    if (shape.biases && shape.multiplies_h) b_hh = data<T>(dense[i++]);
    if (shape.dims.projected) w_hr = data<W>(dense[i++]);
    if (shape.projection_bias) b_hr = data<T>(dense[i++]);
    if (shape.per_unit_weights) per_unit_weights = data<T>(dense[i]);
  }

  // What a time loop reads of them.
  template <class A>
  void set(ForwardParams<T, A, W>& params) const {
    params.w_ih = w_ih;
    params.w_hh = w_hh;
    params.w_hr = w_hr;
    params.b_ih = b_ih;
    params.b_hh = b_hh;
    params.b_hr = b_hr;
    params.per_unit_weights = per_unit_weights;
  }
};

// Where what forward keeps for backward lies: every step's cell states of all recurrences, what these save, then the
// outputs of all layers but the last. Values of T; a cell state takes as many as an accumulator measures, and stands
// first so that it is aligned as one, however many values of a half type are saved.
struct ReserveLayout {
  int64_t cell, saved;  // of a recurrence, the first for each of its cell states
  int64_t cell_states;
  int64_t recurrences;
  int64_t output_values;  // of a layer
  int64_t outputs;

  ReserveLayout(const CellFacts& facts, const LayerShape& shape, int64_t values_per_accumulator)
      : cell(shape.rows * shape.dims.hidden_size * values_per_accumulator),
        saved(facts.reads_saved ? shape.rows * facts.saved_values * shape.dims.hidden_size : 0),
        cell_states(facts.cell_states),
        recurrences(shape.recurrences()),
        output_values(shape.rows * shape.output_columns()),
        outputs(shape.layers - 1) {}

  int64_t cells_of(int64_t index, int state) const { return (index * cell_states + state) * cell; }
  int64_t saved_of(int64_t index) const { return cells_of(recurrences, 0) + index * saved; }
  int64_t output_of(int64_t layer) const { return saved_of(recurrences) + layer * output_values; }
  int64_t size() const { return output_of(outputs); }
};

}  // namespace fastrnn::ops
