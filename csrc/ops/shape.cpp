#include "shape.h"

#include <string>

namespace fastrnn::ops {

namespace {

// The Python layer has told the user what is wrong in torch's words; these keep a direct caller of an op from a crash.
void check(bool condition, const char* what) { STD_TORCH_CHECK(condition, "fastrnn: ", what); }

// What all tensors of a call share.
struct Kind {
  Place place;
  ScalarType dtype;

  explicit Kind(const Tensor& input) : place(input), dtype(input.scalar_type()) {}
  bool operator==(const Kind&) const = default;
};

template <class Sizes = std::initializer_list<int64_t>>
void check_tensor(const Tensor& tensor, const Kind& kind, const Sizes& sizes, const char* what) {
  check(Kind(tensor) == kind, "all tensors must be on one device and of one dtype");
  check(tensor.dim() == static_cast<int64_t>(sizes.size()), what);
  int64_t d = 0;
  for (int64_t size : sizes) check(tensor.size(d++) == size, what);
}

void read_batch_sizes(const LayerArgs& args, bool by_host, LayerShape& shape) {
  const Tensor& sizes = *args.batch_sizes;
  check(sizes.scalar_type() == ScalarType::Long && sizes.dim() == 1 && sizes.is_contiguous(),
        "batch_sizes must be a contiguous 1-D int64 tensor");
  const bool packed = args.input.dim() == 2;
  check(by_host || !packed, "batch_sizes of a packed input must be on the CPU");
  if (!by_host) {
    check(Place(sizes) == Place(args.input) && sizes.numel() == shape.steps,
          "batch_sizes must be on the CPU or the input's device, with one entry per time step");
    shape.device_sizes = data<const int64_t>(sizes);
    shape.padded_ragged = true;
    return;
  }
  shape.sizes.assign(data<int64_t>(sizes), data<int64_t>(sizes) + sizes.numel());
  int64_t above = shape.batch, rows = 0;
  for (int64_t size : shape.sizes) {
    check(size >= 0 && size <= above, "batch_sizes must not increase, nor exceed the batch of hx");
    if (packed) shape.offsets.push_back(rows);
    above = size;
    rows += size;
  }
  if (packed) {
    shape.steps = sizes.numel();
    check(rows == shape.rows, "batch_sizes must add up to the rows of a packed input");
  } else {
    check(sizes.numel() == shape.steps, "batch_sizes must have one entry per time step");
    shape.padded_ragged = rows < shape.rows;
  }
}

void check_extras(const LayerExtras& extras, const Kind& kind, const LayerShape& shape, const CellFacts& facts) {
  check(!shape.single_step, "extras need the dimensions of steps and directions");
  check(shape.layers == 1, "extras are those of a single layer");
  const size_t states = static_cast<size_t>(facts.states());
  const auto none_or = [](size_t count, size_t all) { return count == 0 || count == all; };
  const auto check_size = [&](const Tensor& tensor, int64_t rows, int64_t columns, const char* what) {
    check_tensor(tensor, kind, {shape.directions, rows, columns}, what);
  };
  check(none_or(extras.reset_states.size(), states), "reset_states must be as many as states, or none");
  check(none_or(extras.kept.size(), states) && none_or(extras.shares.size(), states),
        "kept and shares must be as many as states, or none");
  for (size_t s = 0; s < states; ++s) {
    if (extras.resets()) {
      check_size(extras.reset_states[s], shape.batch, shape.state_size(s),
                 "a reset state must have the shape of its state");
    }
    const std::optional<Tensor> kept = extras.kept_of(s);
    if (kept) check_size(*kept, shape.rows, shape.state_size(s), "kept must be (directions, rows, size of the state)");
  }
  if (extras.h_mask) {
    check_size(*extras.h_mask, shape.batch, shape.state_size(0), "h_mask must have the shape of hx");
  }
  check(states > 1 || !extras.cells, "the cell has no cell state");
  check(!facts.activates_output || extras.share_of(0) == 0,
        "a cell whose output has a nonlinearity takes masks for zoneout");
  constexpr int64_t kActivations = static_cast<int64_t>(Activation::kSigmoid) + 1;
  check(none_or(extras.activations.size(), 2), "activations must be those of h and of the output, or none");
  for (int64_t activation : extras.activations) {
    check(activation >= 0 && activation < kActivations, "an activation must be one of reference.ACTIVATIONS");
  }
  if (!extras.cuts) return;
  const Tensor& cuts = *extras.cuts;
  check(Place(cuts) == kind.place && cuts.scalar_type() == ScalarType::Byte && cuts.dim() == 2 &&
            cuts.size(0) == shape.directions && cuts.size(1) == shape.rows,
        "cuts must be uint8, (directions, rows)");
}

// Of weights with a w_hh, `count` for each recurrence.
void read_recurrent_sizes(const LayerArgs& args, int64_t count, const CellFacts& facts, LayerShape& shape) {
  const int64_t matrices = count - (facts.per_unit_weights > 0 ? 1 : 0);  // and biases
  const bool fits = matrices >= 2 && (facts.activates_output ? matrices <= 6 && matrices != 5 : matrices <= 5);
  check(fits, "weights must be w_ih, w_hh, [b_ih, b_hh], [w_hr], [b_hr], [unit weights] for each direction");
  shape.biases = matrices >= 4;
  shape.projection_bias = matrices == 6;
  const bool projected = matrices % 2 == 1 || shape.projection_bias;
  check(!projected || facts.projects, "the cell has no projection");
  check(args.weights[1].dim() == 2, "w_hh must be (gates * hidden_size, size)");
  const int64_t hidden = args.weights[1].size(0) / facts.product_gates(), recurrent = args.weights[1].size(1);
  check(projected || recurrent == hidden, "w_hh must be (gates * hidden_size, hidden_size)");
  shape.dims = {shape.batch, hidden, recurrent, projected};
}

void check_weights(const LayerArgs& args, int64_t count, const Kind& matrix, const Kind& bias, const CellFacts& facts,
                   const LayerShape& shape) {
  const int64_t hidden = shape.dims.hidden_size, recurrent = shape.dims.recurrent_size;
  const int64_t columns = shape.columns;
  for (int64_t index = 0; index < shape.recurrences(); ++index) {
    const auto first = args.weights.begin() + index * count, end = first + count;
    auto weight = first;
    const auto next = [&](std::initializer_list<int64_t> sizes, const char* what) {
      check(weight != end, "there are too few weights");
      check_tensor(*weight++, sizes.size() == 1 ? bias : matrix, sizes, what);
    };
    const int64_t input_size = shape.input_size(index / shape.directions);
    next({shape.copies_input(input_size) ? columns : facts.gates * hidden, input_size},
         "w_ih does not fit the input, or the layer below");
    if (facts.multiplies_h) next({columns, recurrent}, "w_hh has the wrong shape");
    for (int b = 0; shape.biases && b < (facts.multiplies_h ? 2 : 1); ++b)
      next({columns}, "a bias has the wrong shape");
    if (shape.dims.projected) next({recurrent, hidden}, "w_hr has the wrong shape");
    if (shape.projection_bias) next({recurrent}, "the projection's bias has the wrong shape");
    if (facts.per_unit_weights) next({facts.per_unit_weights, hidden}, "the unit weights have the wrong shape");
    check(weight == end, "there are too many weights");
  }
}

}  // namespace

LayerShape check_layer(const LayerArgs& args, bool sizes_read_by_host, std::optional<WeightTypes> types) {
  const CellFacts& facts = cell_facts(args.cell);
  LayerShape shape{};
  const Kind kind(args.input);
  Kind matrix = kind, bias = kind;
  if (types) {
    matrix.dtype = types->matrices;
    bias.dtype = types->biases;
  }
  shape.dtype = kind.dtype;
  shape.single_step = args.input.dim() == 2 && !args.batch_sizes && !args.bidirectional;
  check(args.input.dim() == 3 || (args.input.dim() == 2 && args.batch_sizes) || shape.single_step,
        "input must be (T, B, I), (N, I) packed, or (B, I) for one step in one direction");
  check(static_cast<int>(args.states.size()) == facts.states(), "states must be hx, and one for each cell state");
  check(args.hx().dim() == (shape.single_step ? 2 : 3),
        "hx must be (layers * directions, batch, size), or (batch, size) for one step");
  shape.directions = args.bidirectional ? 2 : 1;
  shape.layers = shape.single_step ? 1 : args.hx().size(0) / shape.directions;
  check(shape.layers > 0, "hx must have a row for each direction of each layer");
  shape.batch = args.hx().size(args.hx().dim() - 2);
  shape.first_input_size = args.input.size(args.input.dim() - 1);
  if (args.input.dim() == 3 || shape.single_step) {
    shape.steps = shape.single_step ? 1 : args.input.size(0);
    check(args.input.size(args.input.dim() - 2) == shape.batch, "input and hx must have the same batch");
    shape.rows = shape.steps * shape.batch;
  } else {
    shape.rows = args.input.size(0);
  }
  if (args.batch_sizes) read_batch_sizes(args, sizes_read_by_host, shape);
  shape.frozen = args.frozen.has_value();

  shape.per_unit_weights = facts.per_unit_weights;
  shape.multiplies_h = facts.multiplies_h;
  shape.reads_input = facts.reads_input;
  const int64_t count = static_cast<int64_t>(args.weights.size()) / shape.recurrences();
  check(count * shape.recurrences() == static_cast<int64_t>(args.weights.size()),
        "weights must be as many for each direction of each layer");
  if (facts.multiplies_h) {
    read_recurrent_sizes(args, count, facts, shape);
  } else {
    shape.biases = count - (facts.per_unit_weights > 0 ? 1 : 0) == 2;
    const int64_t size = args.hx().size(args.hx().dim() - 1);
    shape.dims = {shape.batch, size, size, false};
  }
  shape.columns = facts.product_gates() * shape.dims.hidden_size;
  check_weights(args, count, matrix, bias, facts, shape);
  for (size_t s = 0; s < args.states.size(); ++s) {
    check_tensor(args.states[s], kind, shape.state_sizes(shape.state_size(s)),
                 s == 0 ? "hx has the wrong shape" : "cx has the wrong shape");
  }
  check(args.extras.has_value() || facts.plain, "the cell has no plain recurrence");
  if (args.extras) check_extras(*args.extras, kind, shape, facts);
  return shape;
}

}  // namespace fastrnn::ops
