// Backward of a call's layers, on whatever device, the last layer first: the time loop of each recurrence, then one
// large product for each gradient that all steps share.
#pragma once

#include <iterator>

#include "layer_pass.h"
#include "weight_grads.h"

namespace fastrnn::ops {

template <class T, class Device, template <class, class> class Loops>
class BackwardPass {
  using A = typename Device::template Accumulator<T>;
  using Call = BackwardCall<T, A>;

 public:
  BackwardPass(const Device& device, const LayerArgs& args, const LayerShape& shape, const LayerGrads& grads,
               const Tensor& output, const Tensor& reserve)
      : device_(device),
        shape_(shape),
        facts_(cell_facts(args.cell)),
        layout_(reserve_layout<T, Device>(args, shape)),
        hidden_(shape.dims.hidden_size),
        recurrent_(shape.dims.recurrent_size),
        saved_columns_(facts_.saved_values * hidden_),
        gate_columns_(facts_.gates * hidden_),
        input_(device.dense(args.input)),
        hx_(device.dense(args.hx())),
        weights_(all_dense(device, args.weights)),
        output_(device.dense(output)),
        reserve_(device.dense(reserve)),
        loops_(device, args, shape, true),
        at_once_(loops_.at_once()),
        chunks_(shape, loops_.cut(shape.rows, saved_columns_)),
        halves_(chunks_.count() > 1 ? 2 : 1),
        written_in_layer_(chunks_.sub_chunk_count(), shape.layers),
        extras_(device, args, shape),
        extra_grads_(device, args, shape, grads.cells),
        lower_grads_(device, shape, at_once_.layers) {
    check_saved();
    const int64_t at_once = at_once_.count();
    grad_saved_ = device.empty({at_once * halves_ * half_size()}, shape.dtype);
    if (grads.output) {
      grad_output_ = device.dense(*grads.output);
      STD_TORCH_CHECK(grad_output_->scalar_type() == shape.dtype && grad_output_->numel() == output.numel(),
                      "fastrnn: the gradient of output does not fit");
    }
    grad_h_ = copy_or_zeros<T, A>(device, grads.state(0), shape.state_sizes(recurrent_));
    for (size_t s = 1; s < args.states.size(); ++s) {
      cx_.push_back(converted(device.dense(args.states[s]), scalar_type_of<A>));
      grad_cells_.push_back(copy_or_zeros<T, A>(device, grads.state(s), shape.state_sizes(hidden_)));
    }
    if (shape.per_unit_weights > 0) {
      grad_per_unit_weights_ =
          device.empty({shape.recurrences(), shape.batch, shape.per_unit_weights * hidden_}, scalar_type_of<A>);
      device.zero(data<A>(grad_per_unit_weights_), grad_per_unit_weights_.numel());
    }
    if (shape.dims.projected) grad_projected_ = device.empty({at_once, shape.rows * recurrent_}, shape.dtype);
    if (has_operand()) operand_ = device.empty({at_once, shape.rows * hidden_}, shape.dtype);
  }

  LayerInputGrads run(const GradRequest& request) {
    LayerInputGrads result;
    result.input = device_.empty(request.input ? sizes_like(input_, shape_.first_input_size) : std::vector<int64_t>{0},
                                 shape_.dtype);
    std::vector<std::vector<Tensor>> weight_grads(static_cast<size_t>(shape_.recurrences()));
    for (int64_t layer = shape_.layers - 1; layer >= 0; layer -= at_once_.layers) {
      for (int64_t d = 0; d < shape_.directions; d += at_once_.directions) {
        run_group(group(shape_, at_once_, layer, d, -1), request, result.input, weight_grads);
      }
    }
    for (std::vector<Tensor>& grads : weight_grads) {
      std::move(grads.begin(), grads.end(), std::back_inserter(result.weights));
    }
    result.states.push_back(converted(grad_h_, shape_.dtype));
    for (const Tensor& grad : grad_cells_) result.states.push_back(converted(grad, shape_.dtype));
    result.reset_states = extra_grads_.reset_states();
    return result;
  }

 private:
  void check_saved() const {
    STD_TORCH_CHECK(output_.scalar_type() == shape_.dtype && output_.numel() == shape_.rows * shape_.output_columns(),
                    "fastrnn: output is not what forward returned");
    STD_TORCH_CHECK(reserve_.scalar_type() == shape_.dtype && reserve_.numel() == layout_.size(),
                    "fastrnn: reserve is not what forward returned");
  }

  // Sub-chunk by sub-chunk, the last one first: the time loops, then the products with what they wrote.
  void run_group(const std::vector<Recurrence>& group, const GradRequest& request, const Tensor& input_grad,
                 std::vector<std::vector<Tensor>>& all_weight_grads) {
    std::vector<Call> calls;
    std::vector<WeightGrads<T, Device>> weight_grads;
    for (size_t k = 0; k < group.size(); ++k) {
      calls.push_back({time_loop(group[k], static_cast<int64_t>(k)), {}, nullptr});
      weight_grads.emplace_back(device_, shape_, facts_, record(group[k], calls[k].params), request,
                                chunks_.of(group[k].direction));
    }
    const size_t last = chunks_.sub_chunk_count() - 1;
    const auto before = [&](size_t k, size_t done) { prepare(group[k], k, last - done, calls[k]); };
    const auto after = [&](size_t k, size_t done) {
      const int64_t layer = group[k].layer, direction = group[k].direction;
      const size_t sub_chunk = last - done, chunk = chunks_.chunk_of(direction, sub_chunk);
      if (layer > 0) {
        add_input_grad(group[k], sub_chunk, calls[k], lower_grads_.above(layer - 1));
      } else if (request.input) {
        add_input_grad(group[k], sub_chunk, calls[k], data<T>(input_grad));
      }
      if (chunks_.begins_chunk(direction, sub_chunk)) weight_grads[k].add(chunk, grad_saved_of(k, chunk));
      calls[k].after = first_step(calls[k]);
    };
    loops_.run(calls, chunks_.sub_chunk_count(), before, after);
    for (size_t k = 0; k < group.size(); ++k) {
      all_weight_grads[static_cast<size_t>(group[k].index)] = weight_grads[k].tensors();
    }
  }

  // Of a chunk of the recurrence whose place in its group is `slot`: the time loop writes into one half of its memory
  // while it reads from the other how the chunk before ended.
  T* grad_saved_of(size_t slot, size_t chunk) const {
    const int64_t half = static_cast<int64_t>(slot) * halves_ + static_cast<int64_t>(chunk % 2);
    return data<T>(grad_saved_) + half * half_size();
  }
  int64_t half_size() const { return chunks_.most_rows() * saved_columns_; }

  void prepare(const Recurrence& recurrence, size_t slot, size_t sub_chunk, Call& call) const {
    const size_t chunk = chunks_.chunk_of(recurrence.direction, sub_chunk);
    const int64_t first_row = chunks_.of(recurrence.direction)[chunk].first_row;
    call.chunk = chunks_.sub_chunks(recurrence.direction)[sub_chunk];
    call.params.grad_saved = grad_saved_of(slot, chunk) + (call.chunk.first_row - first_row) * saved_columns_;
    // The kernels write no row that did not run, and the products read them all.
    const int64_t rows = call.chunk.end_row - call.chunk.first_row;
    if (shape_.padded_ragged) device_.zero(call.params.grad_saved, rows * saved_columns_);
  }

  // The gradients of the saved values of a sub-chunk's first step, which the sub-chunk before it goes on from.
  const T* first_step(const Call& call) const {
    const auto& [params, sub_chunk, _] = call;
    return params.grad_saved + (params.steps.offset(sub_chunk.begin) - sub_chunk.first_row) * saved_columns_;
  }

  // out (N, input_size): the gradient of the layer's input. Both directions write to it, block by block, whichever
  // comes to one first.
  void add_input_grad(const Recurrence& recurrence, size_t sub_chunk, const Call& call, T* out) {
    const int64_t size = shape_.input_size(recurrence.layer), rows = call.chunk.end_row - call.chunk.first_row;
    bool accumulate = false;
    if (shape_.directions > 1) {
      int64_t& written = written_in_layer_[chunks_.block(recurrence.direction, sub_chunk)];
      accumulate = written == recurrence.layer;
      written = recurrence.layer;
    }
    const int64_t products = shape_.copies_input(size) ? facts_.product_gates() * hidden_ : gate_columns_;
    const Matrix<T> grad{out + call.chunk.first_row * size, rows, size, size};
    const Matrix<const T> gates{call.params.grad_saved, rows, gate_columns_, saved_columns_};
    device_.multiply(grad, gates.column_range(0, products),
                     Matrix<const T>{Weights<T>(weights_, shape_, recurrence.index).w_ih, products, size, size},
                     accumulate);
    if (products < gate_columns_) device_.add_rows(grad, gates.column_range(products, gate_columns_));
  }

  BackwardParams<T, A> time_loop(const Recurrence& recurrence, int64_t slot) {
    const int64_t index = recurrence.index, column = recurrence.direction * recurrent_;
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    const Weights<T> w(weights_, shape_, index);
    BackwardParams<T, A> params{};
    params.steps = shape_.direction(recurrence.direction);
    params.dims = shape_.dims;
    params.saved = reserve() + layout_.saved_of(index);
    params.w_hh = w.w_hh;
    params.w_hr = w.w_hr;
    params.per_unit_weights = w.per_unit_weights;
    if (shape_.per_unit_weights > 0) {
      params.grad_per_unit_weights = data<A>(grad_per_unit_weights_) + index * cell_state * shape_.per_unit_weights;
    }
    params.hx = data<const T>(hx_) + index * state;
    params.output = output_of(recurrence.layer) + column;
    params.output_stride = shape_.output_columns();
    const T* const grad_output = grad_output_of(recurrence.layer);
    params.grad_output = grad_output ? grad_output + column : nullptr;
    params.grad_output_stride = params.output_stride;
    params.grad_h = data<A>(grad_h_) + index * state;
    for (int k = 0; k < facts_.cell_states; ++k) {
      const size_t place = static_cast<size_t>(k);
      params.cells[k] = reinterpret_cast<const A*>(reserve() + layout_.cells_of(index, k));
      params.cx[k] = data<const A>(cx_[place]) + index * cell_state;
      params.grad_cell[k] = data<A>(grad_cells_[place]) + index * cell_state;
    }
    params.extras = extras_.of(recurrence.direction);
    params.extra_grads = extra_grads_.of(recurrence.direction);
    if (shape_.dims.projected) {
      params.grad_projected = data<T>(grad_projected_) + slot * shape_.rows * recurrent_;
      if (shape_.padded_ragged) device_.zero(params.grad_projected, shape_.rows * recurrent_);
    }
    if (has_operand()) {
      params.operand = data<T>(operand_) + slot * shape_.rows * hidden_;
      if (shape_.padded_ragged) device_.zero(params.operand, shape_.rows * hidden_);
    }
    return params;
  }

  // Whether a step has a second product.
  bool has_operand() const { return shape_.dims.projected || facts_.second_pass_gates > 0; }

  DirectionRecord<T, A> record(const Recurrence& recurrence, const BackwardParams<T, A>& params) const {
    return {params.steps,
            params.grad_projected,
            params.operand,
            recurrence.layer == 0 ? data<const T>(input_) : output_of(recurrence.layer - 1),
            shape_.input_size(recurrence.layer),
            params.output,
            params.output_stride,
            params.hx,
            extras_.change_previous_h() ? params.extras : nullptr,
            params.grad_per_unit_weights};
  }

  const T* reserve() const { return data<const T>(reserve_); }
  const T* output_of(int64_t layer) const {
    return layer == shape_.layers - 1 ? data<const T>(output_) : reserve() + layout_.output_of(layer);
  }
  // Null for zeros.
  const T* grad_output_of(int64_t layer) const {
    if (layer < shape_.layers - 1) return lower_grads_.above(layer);
    return grad_output_ ? data<const T>(*grad_output_) : nullptr;
  }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const ReserveLayout layout_;
  const int64_t hidden_, recurrent_, saved_columns_, gate_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  const Tensor output_, reserve_;
  Loops<T, T> loops_;
  const AtOnce at_once_;
  const Chunks chunks_;
  const int64_t halves_;
  std::vector<int64_t> written_in_layer_;  // the layer whose input's gradient last had this block written
  const CallExtras<T, Device> extras_;
  const CallExtraGrads<T, Device> extra_grads_;
  const BetweenLayers<T, Device> lower_grads_;
  std::vector<Tensor> cx_, grad_cells_;  // of each cell state
  std::optional<Tensor> grad_output_;
  Tensor grad_h_, grad_saved_, grad_projected_, operand_, grad_per_unit_weights_;
};

}  // namespace fastrnn::ops
