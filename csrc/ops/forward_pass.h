// Forward of a call's layers, on whatever device: a large product with a layer's input, then the time loop, sub-chunk
// by sub-chunk.
#pragma once

#include "layer_pass.h"

namespace fastrnn::ops {

// W is the type of the weights' matrices.
template <class T, class W, class Device, template <class, class> class Loops>
class ForwardPass {
  using A = typename Device::template Accumulator<T>;
  using Call = ForwardCall<T, A, W>;

 public:
  // keep: what backward reads, which includes every step's cell states, if these are wanted.
  ForwardPass(const Device& device, const LayerArgs& args, const LayerShape& shape, bool keep)
      : device_(device),
        shape_(shape),
        facts_(cell_facts(args.cell)),
        layout_(reserve_layout<T, Device>(args, shape)),
        hidden_(shape.dims.hidden_size),
        recurrent_(shape.dims.recurrent_size),
        wants_cells_(args.extras && args.extras->cells),
        keep_(keep || wants_cells_),
        keep_saved_(keep_ && facts_.reads_saved),
        gate_columns_(facts_.gates * hidden_),
        saved_columns_(keep_saved_ ? facts_.saved_values * hidden_ : gate_columns_),
        input_(device.dense(args.input)),
        hx_(device.dense(args.hx())),
        weights_(all_dense(device, args.weights)),
        loops_(device, args, shape, false),
        at_once_(loops_.at_once()),
        chunks_(shape, loops_.cut(shape.rows, saved_columns_)),
        frozen_(args.frozen),
        extras_(device, args, shape),
        projections_(device, keep_saved_ || loops_.multiplies_input()
                                 ? 0
                                 : at_once_.count() * chunks_.most_rows_of_sub_chunk() * saved_columns_),
        output_(device.empty(sizes_like(input_, shape.output_columns()), shape.dtype)),
        hy_(device.empty(shape.state_sizes(recurrent_), shape.dtype)) {
    for (size_t s = 1; s < args.states.size(); ++s) {
      cells_.push_back(copy_or_zeros<T, A>(device, args.states[s], shape.state_sizes(hidden_)));
    }
    if (keep_) {
      reserve_ = device.empty({layout_.size()}, shape.dtype);
    } else {
      lower_outputs_.emplace(device, shape, at_once_.layers);
    }
  }

  LayerOutputs run() {
    for (int64_t layer = 0; layer < shape_.layers; layer += at_once_.layers) {
      for (int64_t d = 0; d < shape_.directions; d += at_once_.directions) {
        run_group(group(shape_, at_once_, layer, d, 1));
      }
    }
    LayerOutputs out{output_, {hy_}, reserve_};
    for (const Tensor& cell : cells_) out.states.push_back(converted(cell, shape_.dtype));
    if (wants_cells_) out.cells = every_cell();
    return out;
  }

 private:
  void run_group(const std::vector<Recurrence>& group) {
    std::vector<Call> calls;
    for (const Recurrence& recurrence : group) calls.push_back({time_loop(recurrence), {}});
    const auto before = [&](size_t k, size_t i) {
      calls[k].chunk = chunks_.sub_chunks(group[k].direction)[i];
      calls[k].params.saved = saved(group[k], k, calls[k].chunk);
      if (!loops_.multiplies_input()) multiply_input(calls[k]);
    };
    loops_.run(calls, chunks_.sub_chunk_count(), before, [](size_t, size_t) {});
  }

  // slot: the recurrence's place in its group.
  T* saved(const Recurrence& recurrence, size_t slot, const Chunk& chunk) const {
    if (keep_saved_) return kept_saved(recurrence.index) + chunk.first_row * saved_columns_;
    if (loops_.multiplies_input()) return nullptr;
    return projections_.data() + static_cast<int64_t>(slot) * chunks_.most_rows_of_sub_chunk() * saved_columns_;
  }

  void multiply_input(const Call& call) const {
    const auto& [params, chunk] = call;
    const int64_t first = chunk.first_row, rows = chunk.end_row - first, size = params.dims.input_size;
    const Matrix<T> gates{params.saved, rows, gate_columns_, saved_columns_};
    const Matrix<const T> input{params.input + first * size, rows, size, size};
    const int64_t products = shape_.copies_input(size) ? facts_.product_gates() * hidden_ : gate_columns_;
    device_.multiply(gates.column_range(0, products), input,
                     Matrix<const W>{params.w_ih, products, size, size}.transposed());
    if (products < gate_columns_) device_.copy_rows(gates.column_range(products, gate_columns_), input);
  }

  ForwardParams<T, A, W> time_loop(const Recurrence& recurrence) const {
    const int64_t index = recurrence.index, column = recurrence.direction * recurrent_;
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    ForwardParams<T, A, W> params{};
    params.steps = shape_.direction(recurrence.direction);
    params.dims = shape_.dims;
    params.dims.input_size = shape_.input_size(recurrence.layer);
    params.input = input_of(recurrence.layer);
    params.saved_stride = saved_columns_;
    params.keep = keep_;
    Weights<T, W>(weights_, shape_, index).set(params);
    if (shape_.dims.input_frozen) params.w_ih = params.w_hh = params.w_hr = nullptr;  // of another type than W
    params.frozen = frozen_ ? data<T>(*frozen_) + shape_.frozen_offset(index) : nullptr;
    params.hx = data<const T>(hx_) + index * state;
    params.output = output_of(recurrence.layer) + column;
    params.output_stride = shape_.output_columns();
    params.hy = data<T>(hy_) + index * state;
    // The kernels write no row that does not run: its output and cell states are zero.
    if (shape_.padded_ragged && recurrence.direction == 0)
      device_.zero(params.output, shape_.rows * shape_.output_columns());
    for (int k = 0; k < facts_.cell_states; ++k) {
      params.cell[k] = data<A>(cells_[static_cast<size_t>(k)]) + index * cell_state;
      if (!keep_) continue;
      params.cells[k] = kept_cells(index, k);
      if (extras_.any() && shape_.padded_ragged) device_.zero(params.cells[k], shape_.rows * hidden_);
    }
    params.extras = extras_.of(recurrence.direction);
    return params;
  }

  // See LayerOutputs, of a single layer; zero where no row ran.
  Tensor every_cell() const {
    const int64_t columns = facts_.cell_states * shape_.directions * hidden_;
    const Tensor out = device_.empty(sizes_like(input_, columns), shape_.dtype);
    T* to = data<T>(out);
    for (int k = 0; k < facts_.cell_states; ++k) {
      for (int64_t d = 0; d < shape_.directions; ++d, to += hidden_) {
        Tensor view = as_tensor(Matrix<T>{to, shape_.rows, hidden_, columns}, Place(out));
        const Matrix<const A> from{kept_cells(d, k), shape_.rows, hidden_, hidden_};
        torch::stable::copy_(view, as_tensor(from, Place(out)));
      }
    }
    return out;
  }

  // Only if something is kept.
  T* kept_saved(int64_t index) const { return data<T>(*reserve_) + layout_.saved_of(index); }
  A* kept_cells(int64_t index, int state) const {
    return reinterpret_cast<A*>(data<T>(*reserve_) + layout_.cells_of(index, state));
  }

  T* output_of(int64_t layer) const {
    if (layer == shape_.layers - 1) return data<T>(output_);
    return keep_ ? data<T>(*reserve_) + layout_.output_of(layer) : lower_outputs_->above(layer);
  }
  const T* input_of(int64_t layer) const { return layer == 0 ? data<const T>(input_) : output_of(layer - 1); }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const ReserveLayout layout_;
  const int64_t hidden_, recurrent_;
  const bool wants_cells_, keep_, keep_saved_;
  const int64_t gate_columns_, saved_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  Loops<T, W> loops_;
  const AtOnce at_once_;
  const Chunks chunks_;
  const std::optional<Tensor> frozen_;
  const CallExtras<T, Device> extras_;
  // Of one sub-chunk of each recurrence that runs at the same time, where no reserve takes them.
  const typename Device::template Scratch<T> projections_;
  const Tensor output_, hy_;
  std::vector<Tensor> cells_;  // the final cell states
  std::optional<Tensor> reserve_;
  std::optional<BetweenLayers<T, Device>> lower_outputs_;  // where no reserve takes them
};

}  // namespace fastrnn::ops
