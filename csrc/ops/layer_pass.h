// The two passes of a layer, on whatever device: the large products that all steps share, around the time loop.
//
// Device (CpuDevice, CudaDevice) makes tensors and workspaces, moves memory and multiplies; Loops<T> (CpuLoops,
// CudaLoops) runs the time loop of a direction, stretch by stretch, and says how long a stretch should be;
// Device::Accumulator<T> is A of params.h.
#pragma once

#include <algorithm>

#include "weight_grads.h"

namespace fastrnn::ops {

template <class Device>
std::vector<Tensor> all_dense(const Device& device, const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  out.reserve(tensors.size());
  for (const Tensor& tensor : tensors) out.push_back(device.dense(tensor));
  return out;
}

inline std::vector<int64_t> sizes_like(const Tensor& input, int64_t columns) {
  if (input.dim() == 2) return {input.size(0), columns};
  return {input.size(0), input.size(1), columns};
}

inline Tensor converted(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// The state that a kernel updates, held in A: a copy of what arrives in T, or zeros.
template <class T, class A, class Device>
Tensor copy_or_zeros(const Device& device, const std::optional<Tensor>& from, const std::vector<int64_t>& sizes) {
  const Tensor out = device.empty(sizes, scalar_type_of<A>);
  if (from) {
    STD_TORCH_CHECK(from->scalar_type() == scalar_type_of<T> && from->numel() == out.numel(),
                    "fastrnn: a gradient or cx does not fit");
    const Tensor wide = converted(device.dense(*from), scalar_type_of<A>);
    device.copy(data<A>(out), data<const A>(wide), out.numel());
  } else {
    device.zero(data<A>(out), out.numel());
  }
  return out;
}

template <class T, class Device>
ReserveLayout reserve_layout(const LayerArgs& args, const LayerShape& shape) {
  return {cell_facts(args.cell), shape.rows, shape.dims.hidden_size,
          sizeof(typename Device::template Accumulator<T>) / sizeof(T)};
}

// The steps of a direction, cut where about `rows` rows of data are together.
inline std::vector<Stretch> stretches(const Steps& steps, int64_t total, int64_t rows) {
  const int64_t count = total / rows > 1 ? total / rows : 1;
  std::vector<Stretch> all;
  int64_t begin = 0, done = 0;
  for (int64_t i = 0; i < count; ++i) {
    int64_t end = begin, in_stretch = 0;
    while (end < steps.steps && (i == count - 1 || done + in_stretch < total * (i + 1) / count)) {
      in_stretch += steps.stored_rows(end++);
    }
    if (end == begin && i > 0) continue;
    const int64_t first = steps.reverse ? total - done - in_stretch : done;
    all.push_back({begin, end, first, first + in_stretch});
    begin = end;
    done += in_stretch;
  }
  return all;
}

// Those of each direction.
inline std::vector<std::vector<Stretch>> all_stretches(const LayerShape& shape, int64_t rows) {
  std::vector<std::vector<Stretch>> all;
  for (int64_t d = 0; d < shape.directions; ++d) all.push_back(stretches(shape.direction(d), shape.rows, rows));
  return all;
}

inline int64_t most_rows(const std::vector<std::vector<Stretch>>& all) {
  int64_t most = 0;
  for (const std::vector<Stretch>& direction : all) {
    for (const Stretch& stretch : direction) most = std::max(most, stretch.end_row - stretch.first_row);
  }
  return most;
}

// W is the type of the weights' matrices.
template <class T, template <class> class Loops, class W = T, class Device>
LayerOutputs run_forward(const Device& device, const LayerArgs& args, const LayerShape& shape, bool keep) {
  using A = typename Device::template Accumulator<T>;
  const CellFacts& facts = cell_facts(args.cell);
  const int64_t hidden = shape.dims.hidden_size, recurrent = shape.dims.recurrent_size;
  const int64_t state = shape.batch * recurrent, cell_state = shape.batch * hidden;
  const ReserveLayout layout = reserve_layout<T, Device>(args, shape);
  const Tensor input = device.dense(args.input), hx = device.dense(args.hx);
  const std::vector<Tensor> weights = all_dense(device, args.weights);

  LayerOutputs out{device.empty(sizes_like(input, shape.directions * recurrent), shape.dtype),
                   device.empty(shape.state_sizes(recurrent), shape.dtype),
                   {},
                   {}};
  if (keep) out.reserve = device.empty({shape.directions * layout.size()}, shape.dtype);
  std::optional<Tensor> cell;
  if (args.cx) cell = copy_or_zeros<T, A>(device, args.cx, shape.state_sizes(hidden));
  if (shape.padded_ragged) device.zero(data<T>(out.output), out.output.numel());

  const int64_t gate_columns = facts.gates * hidden;
  const bool keep_channels = keep && facts.keeps_channels;
  const int64_t channel_columns = keep_channels ? facts.channels * hidden : gate_columns;
  Loops<T> loops(device, args, shape);
  const std::vector<std::vector<Stretch>> all = all_stretches(shape, loops.stretch_rows(channel_columns));
  // Of one stretch, where no reserve takes them.
  const typename Device::template Workspace<T> projections(device,
                                                           keep_channels ? 0 : most_rows(all) * channel_columns);

  for (int64_t d = 0; d < shape.directions; ++d) {
    const Weights<T, W> w(weights, shape, d);
    T* reserve = keep ? data<T>(*out.reserve) + d * layout.size() : nullptr;
    ForwardParams<T, A, W> params{};
    params.steps = shape.direction(d);
    params.dims = shape.dims;
    params.channel_stride = channel_columns;
    params.keep = keep;
    w.set(params);
    params.frozen = args.frozen ? data<T>(*args.frozen) + d * (args.frozen->numel() / shape.directions) : nullptr;
    params.hx = data<const T>(hx) + d * state;
    params.output = data<T>(out.output) + d * recurrent;
    params.output_stride = shape.directions * recurrent;
    params.hy = data<T>(out.hy) + d * state;
    params.cell = cell ? data<A>(*cell) + d * cell_state : nullptr;
    params.cells = keep && facts.has_cell_state ? reinterpret_cast<A*>(reserve + layout.channels) : nullptr;
    for (const Stretch& stretch : all[static_cast<size_t>(d)]) {
      const int64_t first = stretch.first_row, rows = stretch.end_row - first;
      params.channels = keep_channels ? reserve + first * channel_columns : projections.data();
      device.multiply(
          Matrix<T>{params.channels, rows, gate_columns, channel_columns},
          Matrix<const T>{data<const T>(input) + first * shape.input_size, rows, shape.input_size, shape.input_size},
          Matrix<const W>{w.w_ih, gate_columns, shape.input_size, shape.input_size}.transposed());
      loops.run(params, stretch);
    }
  }
  if (cell) out.cy = converted(*cell, shape.dtype);
  return out;
}

// Backward of one layer: the time loop of each direction, then one large product for each gradient that all steps
// share.
template <class T, class Device, template <class> class Loops>
class BackwardPass {
  using A = typename Device::template Accumulator<T>;

 public:
  BackwardPass(const Device& device, const LayerArgs& args, const LayerShape& shape, const LayerGrads& grads,
               const Tensor& output, const Tensor& reserve)
      : device_(device),
        shape_(shape),
        facts_(cell_facts(args.cell)),
        layout_(reserve_layout<T, Device>(args, shape)),
        hidden_(shape.dims.hidden_size),
        recurrent_(shape.dims.recurrent_size),
        channel_columns_(facts_.channels * hidden_),
        gate_columns_(facts_.gates * hidden_),
        input_(device.dense(args.input)),
        hx_(device.dense(args.hx)),
        weights_(all_dense(device, args.weights)),
        output_(output),
        reserve_(reserve),
        loops_(device, args, shape),
        stretches_(all_stretches(shape, loops_.stretch_rows(channel_columns_))) {
    check_saved();
    int64_t halves = 1;
    for (const std::vector<Stretch>& direction : stretches_) halves = direction.size() > 1 ? 2 : halves;
    grad_channels_ = device.empty({halves * most_rows(stretches_) * channel_columns_}, shape.dtype);
    if (args.cx) cx_ = converted(device.dense(*args.cx), scalar_type_of<A>);
    if (grads.output) {
      grad_output_ = device.dense(*grads.output);
      STD_TORCH_CHECK(grad_output_->scalar_type() == shape.dtype && grad_output_->numel() == output.numel(),
                      "fastrnn: the gradient of output does not fit");
    }
    grad_h_ = copy_or_zeros<T, A>(device, grads.hy, shape.state_sizes(recurrent_));
    if (args.cx) grad_c_ = copy_or_zeros<T, A>(device, grads.cy, shape.state_sizes(hidden_));
    if (shape.dims.projected) {
      grad_projected_ = device.empty({shape.rows * recurrent_}, shape.dtype);
      unprojected_ = device.empty({shape.rows * hidden_}, shape.dtype);
    }
  }

  LayerInputGrads run(const GradRequest& request) {
    LayerInputGrads result;
    result.input =
        device_.empty(request.input ? sizes_like(input_, shape_.input_size) : std::vector<int64_t>{0}, shape_.dtype);
    for (int64_t d = 0; d < shape_.directions; ++d) run_direction(d, request, result);
    result.hx = converted(grad_h_, shape_.dtype);
    if (grad_c_) result.cx = converted(*grad_c_, shape_.dtype);
    return result;
  }

 private:
  void check_saved() const {
    const int64_t values = shape_.rows * shape_.directions * recurrent_;
    STD_TORCH_CHECK(output_.scalar_type() == shape_.dtype && output_.is_contiguous() && output_.numel() == values,
                    "fastrnn: output is not what forward returned");
    STD_TORCH_CHECK(reserve_.scalar_type() == shape_.dtype && reserve_.is_contiguous() &&
                        reserve_.numel() == shape_.directions * layout_.size(),
                    "fastrnn: reserve is not what forward returned");
  }

  // Stretch by stretch, the last one first: the time loop, then the products with what it wrote. It writes into one
  // half of grad_channels_ while it reads from the other how the stretch before ended.
  void run_direction(int64_t d, const GradRequest& request, LayerInputGrads& result) {
    const std::vector<Stretch>& all = stretches_[static_cast<size_t>(d)];
    const int64_t half = grad_channels_.numel() / 2;
    BackwardParams<T, A> params = time_loop(d);
    WeightGrads<T, Device> weight_grads(device_, shape_, facts_, record(d), request, all);
    const T* after = nullptr;
    for (size_t i = all.size(); i-- > 0;) {
      const Stretch& stretch = all[i];
      params.grad_channels = data<T>(grad_channels_) + (i % 2 == 0 ? 0 : half);
      // The kernels write no row that did not run, and the products read them all.
      const int64_t rows = stretch.end_row - stretch.first_row;
      if (shape_.padded_ragged) device_.zero(params.grad_channels, rows * channel_columns_);
      loops_.run(params, stretch, after);
      if (request.input) add_input_grad(d, stretch, params.grad_channels, result);
      weight_grads.add(i, params.grad_channels);
      after = params.grad_channels + (params.steps.offset(stretch.begin) - stretch.first_row) * channel_columns_;
    }
    weight_grads.append_to(result.weights);
  }

  void add_input_grad(int64_t d, const Stretch& stretch, const T* grad_channels, LayerInputGrads& result) {
    const Weights<T> w(weights_, shape_, d);
    const int64_t size = shape_.input_size, rows = stretch.end_row - stretch.first_row;
    device_.multiply(Matrix<T>{data<T>(result.input) + stretch.first_row * size, rows, size, size},
                     Matrix<const T>{grad_channels, rows, gate_columns_, channel_columns_},
                     Matrix<const T>{w.w_ih, gate_columns_, size, size}, d > 0);
  }

  BackwardParams<T, A> time_loop(int64_t d) {
    const Weights<T> w(weights_, shape_, d);
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    if (shape_.padded_ragged) {
      for (const Tensor& tensor : {grad_projected_, unprojected_}) {
        if (tensor.defined()) device_.zero(data<T>(tensor), tensor.numel());
      }
    }
    const T* reserve = data<const T>(reserve_) + d * layout_.size();
    BackwardParams<T, A> params{};
    params.steps = shape_.direction(d);
    params.dims = shape_.dims;
    params.channels = reserve;
    params.cells = facts_.has_cell_state ? reinterpret_cast<const A*>(reserve + layout_.channels) : nullptr;
    params.w_hh = w.w_hh;
    params.w_hr = w.w_hr;
    params.hx = data<const T>(hx_) + d * state;
    params.cx = cx_ ? data<const A>(*cx_) + d * cell_state : nullptr;
    params.output = data<const T>(output_) + d * recurrent_;
    params.output_stride = shape_.directions * recurrent_;
    params.grad_output = grad_output_ ? data<const T>(*grad_output_) + d * recurrent_ : nullptr;
    params.grad_output_stride = params.output_stride;
    params.grad_h = data<A>(grad_h_) + d * state;
    params.grad_c = grad_c_ ? data<A>(*grad_c_) + d * cell_state : nullptr;
    if (shape_.dims.projected) {
      params.grad_projected = data<T>(grad_projected_);
      params.hidden = data<T>(unprojected_);
    }
    return params;
  }

  DirectionRecord<T> record(int64_t d) const {
    const bool projected = shape_.dims.projected;
    return {shape_.direction(d),
            projected ? data<const T>(grad_projected_) : nullptr,
            projected ? data<const T>(unprojected_) : nullptr,
            data<const T>(input_),
            data<const T>(output_) + d * recurrent_,
            shape_.directions * recurrent_,
            data<const T>(hx_) + d * shape_.batch * recurrent_};
  }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const ReserveLayout layout_;
  const int64_t hidden_, recurrent_, channel_columns_, gate_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  const Tensor output_, reserve_;
  Loops<T> loops_;
  const std::vector<std::vector<Stretch>> stretches_;  // of each direction
  std::optional<Tensor> cx_, grad_output_, grad_c_;
  Tensor grad_h_, grad_channels_, grad_projected_, unprojected_;
};

}  // namespace fastrnn::ops
