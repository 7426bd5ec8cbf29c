// The two passes of a layer, on whatever device: the large products that all steps share, around the time loop.
//
// Device (CpuDevice, CudaDevice) makes tensors and workspaces, moves memory and multiplies; Loops<T, W> (CpuLoops,
// CudaLoops) runs the time loops, stretch by stretch, and says how long a stretch should be and how many directions run
// at once;
// Device::Accumulator<T> is A of params.h.
#pragma once

#include "extras.h"
#include "stretches.h"
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

// Forward of one layer: a large product with the input, then the time loop, stretch by stretch. W is the type of the
// weights' matrices.
template <class T, class W, class Device, template <class, class> class Loops>
class ForwardPass {
  using A = typename Device::template Accumulator<T>;
  using Call = ForwardCall<T, A, W>;

 public:
  ForwardPass(const Device& device, const LayerArgs& args, const LayerShape& shape, bool keep)
      : device_(device),
        shape_(shape),
        facts_(cell_facts(args.cell)),
        layout_(reserve_layout<T, Device>(args, shape)),
        hidden_(shape.dims.hidden_size),
        recurrent_(shape.dims.recurrent_size),
        keep_(keep),
        keep_channels_(keep && facts_.keeps_channels),
        gate_columns_(facts_.gates * hidden_),
        channel_columns_(keep_channels_ ? facts_.channels * hidden_ : gate_columns_),
        input_(device.dense(args.input)),
        hx_(device.dense(args.hx)),
        weights_(all_dense(device, args.weights)),
        loops_(device, args, shape, false),
        stretches_(shape, loops_.stretch_rows(shape.rows, channel_columns_)),
        frozen_(args.frozen),
        extras_(device, args, shape),
        projections_(device, keep_channels_ ? 0 : loops_.at_once() * stretches_.most_rows() * channel_columns_),
        output_(device.empty(sizes_like(input_, shape.directions * recurrent_), shape.dtype)),
        hy_(device.empty(shape.state_sizes(recurrent_), shape.dtype)) {
    if (args.cx) cell_ = copy_or_zeros<T, A>(device, args.cx, shape.state_sizes(hidden_));
    if (keep) reserve_ = device.empty({shape.directions * layout_.size()}, shape.dtype);
    if (shape.padded_ragged) device.zero(data<T>(output_), output_.numel());
  }

  LayerOutputs run() {
    for (int64_t d = 0; d < shape_.directions; d += loops_.at_once()) run_from(d);
    LayerOutputs out{output_, hy_, {}, reserve_};
    if (cell_) out.cy = converted(*cell_, shape_.dtype);
    return out;
  }

  // (rows as output, D*H): every step's c, of a cell that has one, if it was kept; zero where no row ran.
  Tensor cells() const {
    const Tensor out = device_.empty(sizes_like(input_, shape_.directions * hidden_), shape_.dtype);
    for (int64_t d = 0; d < shape_.directions; ++d) {
      const Matrix<T> to{data<T>(out) + d * hidden_, shape_.rows, hidden_, shape_.directions * hidden_};
      const Matrix<const A> from{reinterpret_cast<const A*>(reserve(d) + layout_.channels), shape_.rows, hidden_,
                                 hidden_};
      Tensor view = as_tensor(to, Place(out));
      torch::stable::copy_(view, as_tensor(from, Place(out)));
    }
    return out;
  }

 private:
  // The directions that run at the same time, from the first of them on.
  void run_from(int64_t first) {
    std::vector<Call> calls;
    for (int64_t d = first; d < first + loops_.at_once(); ++d) calls.push_back({time_loop(d), {}});
    for (size_t i = 0; i < stretches_.count(); ++i) {
      for (size_t k = 0; k < calls.size(); ++k) {
        const int64_t d = first + static_cast<int64_t>(k);
        calls[k].stretch = stretches_.of(d)[i];
        multiply_input(d, calls[k]);
      }
      loops_.run(calls);
    }
  }

  void multiply_input(int64_t d, Call& call) const {
    const int64_t first = call.stretch.first_row, rows = call.stretch.end_row - first, size = shape_.input_size;
    const int64_t slot = d % loops_.at_once();
    call.params.channels = keep_channels_ ? reserve(d) + first * channel_columns_
                                          : projections_.data() + slot * stretches_.most_rows() * channel_columns_;
    device_.multiply(Matrix<T>{call.params.channels, rows, gate_columns_, channel_columns_},
                     Matrix<const T>{data<const T>(input_) + first * size, rows, size, size},
                     Matrix<const W>{Weights<T, W>(weights_, shape_, d).w_ih, gate_columns_, size, size}.transposed());
  }

  ForwardParams<T, A, W> time_loop(int64_t d) const {
    const Weights<T, W> w(weights_, shape_, d);
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    ForwardParams<T, A, W> params{};
    params.steps = shape_.direction(d);
    params.dims = shape_.dims;
    params.channel_stride = channel_columns_;
    params.keep = keep_;
    w.set(params);
    params.frozen = frozen_ ? data<T>(*frozen_) + d * (frozen_->numel() / shape_.directions) : nullptr;
    params.hx = data<const T>(hx_) + d * state;
    params.output = data<T>(output_) + d * recurrent_;
    params.output_stride = shape_.directions * recurrent_;
    params.hy = data<T>(hy_) + d * state;
    params.cell = cell_ ? data<A>(*cell_) + d * cell_state : nullptr;
    params.cells = keep_ && facts_.has_cell_state ? reinterpret_cast<A*>(reserve(d) + layout_.channels) : nullptr;
    // Rows that do not run have no c.
    if (params.cells && extras_.any() && shape_.padded_ragged) device_.zero(params.cells, shape_.rows * hidden_);
    params.extras = extras_.of(d);
    return params;
  }

  // Of a direction; only if something is kept.
  T* reserve(int64_t d) const { return data<T>(*reserve_) + d * layout_.size(); }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const ReserveLayout layout_;
  const int64_t hidden_, recurrent_;
  const bool keep_, keep_channels_;
  const int64_t gate_columns_, channel_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  Loops<T, W> loops_;
  const Stretches stretches_;
  const std::optional<Tensor> frozen_;
  const CallExtras<T, Device> extras_;
  // Of one stretch of each direction that runs at the same time, where no reserve takes them.
  const typename Device::template Workspace<T> projections_;
  const Tensor output_, hy_;
  std::optional<Tensor> cell_, reserve_;
};

// The forward pass, where the weights are of the data's type. Every step's c, if it is wanted, comes from the reserve.
template <class T, class Device, template <class, class> class Loops>
LayerOutputs run_forward(const Device& device, const LayerArgs& args, const LayerShape& shape, bool keep) {
  const bool wants_cells = args.extras && args.extras->cells;
  ForwardPass<T, T, Device, Loops> pass(device, args, shape, keep || wants_cells);
  LayerOutputs out = pass.run();
  if (wants_cells) out.cells = pass.cells();
  return out;
}

// Backward of one layer: the time loop of each direction, then one large product for each gradient that all steps
// share.
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
        channel_columns_(facts_.channels * hidden_),
        gate_columns_(facts_.gates * hidden_),
        input_(device.dense(args.input)),
        hx_(device.dense(args.hx)),
        weights_(all_dense(device, args.weights)),
        output_(output),
        reserve_(reserve),
        loops_(device, args, shape, true),
        stretches_(shape, loops_.stretch_rows(shape.rows, channel_columns_)),
        halves_(stretches_.count() > 1 ? 2 : 1),
        block_written_(stretches_.count(), false),
        extras_(device, args, shape),
        extra_grads_(device, args, shape, grads.cells) {
    check_saved();
    grad_channels_ =
        device.empty({loops_.at_once() * halves_ * stretches_.most_rows() * channel_columns_}, shape.dtype);
    if (args.cx) cx_ = converted(device.dense(*args.cx), scalar_type_of<A>);
    if (grads.output) {
      grad_output_ = device.dense(*grads.output);
      STD_TORCH_CHECK(grad_output_->scalar_type() == shape.dtype && grad_output_->numel() == output.numel(),
                      "fastrnn: the gradient of output does not fit");
    }
    grad_h_ = copy_or_zeros<T, A>(device, grads.hy, shape.state_sizes(recurrent_));
    if (args.cx) grad_c_ = copy_or_zeros<T, A>(device, grads.cy, shape.state_sizes(hidden_));
    if (shape.unit_weights > 0) {
      grad_unit_weights_ =
          device.empty({shape.directions, shape.batch, shape.unit_weights * hidden_}, scalar_type_of<A>);
      device.zero(data<A>(grad_unit_weights_), grad_unit_weights_.numel());
    }
    if (shape.dims.projected) {
      grad_projected_ = device.empty({loops_.at_once(), shape.rows * recurrent_}, shape.dtype);
    }
    if (has_operand()) operand_ = device.empty({loops_.at_once(), shape.rows * hidden_}, shape.dtype);
  }

  LayerInputGrads run(const GradRequest& request) {
    LayerInputGrads result;
    result.input =
        device_.empty(request.input ? sizes_like(input_, shape_.input_size) : std::vector<int64_t>{0}, shape_.dtype);
    for (int64_t d = 0; d < shape_.directions; d += loops_.at_once()) run_from(d, request, result);
    result.hx = converted(grad_h_, shape_.dtype);
    if (grad_c_) result.cx = converted(*grad_c_, shape_.dtype);
    result.reset_h = extra_grads_.reset_h();
    result.reset_c = extra_grads_.reset_c();
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

  // The directions that run at the same time, from the first of them on. Stretch by stretch, the last one first: the
  // time loops, then the products with what they wrote.
  void run_from(int64_t first, const GradRequest& request, LayerInputGrads& result) {
    std::vector<Call> calls;
    std::vector<WeightGrads<T, Device>> weight_grads;
    for (int64_t d = first; d < first + loops_.at_once(); ++d) {
      calls.push_back({time_loop(d), {}, nullptr});
      weight_grads.emplace_back(device_, shape_, facts_, record(calls.back().params), request, stretches_.of(d));
    }
    for (size_t i = stretches_.count(); i-- > 0;) {
      for (size_t k = 0; k < calls.size(); ++k) prepare(first + static_cast<int64_t>(k), i, calls[k]);
      loops_.run(calls);
      for (size_t k = 0; k < calls.size(); ++k) {
        auto& [params, stretch, after] = calls[k];
        if (request.input) add_input_grad(first + static_cast<int64_t>(k), i, calls[k], result);
        weight_grads[k].add(i, params.grad_channels);
        after = params.grad_channels + (params.steps.offset(stretch.begin) - stretch.first_row) * channel_columns_;
      }
    }
    for (const WeightGrads<T, Device>& grads : weight_grads) grads.append_to(result.weights);
  }

  // The time loop writes into one half of the direction's grad_channels_ while it reads from the other how the stretch
  // before ended.
  void prepare(int64_t d, size_t i, Call& call) const {
    const int64_t half_size = stretches_.most_rows() * channel_columns_;
    const int64_t half = slot(d) * halves_ + static_cast<int64_t>(i % 2);
    call.stretch = stretches_.of(d)[i];
    call.params.grad_channels = data<T>(grad_channels_) + half * half_size;
    // The kernels write no row that did not run, and the products read them all.
    const int64_t rows = call.stretch.end_row - call.stretch.first_row;
    if (shape_.padded_ragged) device_.zero(call.params.grad_channels, rows * channel_columns_);
  }

  void add_input_grad(int64_t d, size_t i, const Call& call, LayerInputGrads& result) {
    const Weights<T> w(weights_, shape_, d);
    const int64_t size = shape_.input_size, rows = call.stretch.end_row - call.stretch.first_row;
    const size_t block = stretches_.block(d, i);
    device_.multiply(Matrix<T>{data<T>(result.input) + call.stretch.first_row * size, rows, size, size},
                     Matrix<const T>{call.params.grad_channels, rows, gate_columns_, channel_columns_},
                     Matrix<const T>{w.w_ih, gate_columns_, size, size}, block_written_[block]);
    block_written_[block] = true;
  }

  BackwardParams<T, A> time_loop(int64_t d) {
    const Weights<T> w(weights_, shape_, d);
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    const T* reserve = data<const T>(reserve_) + d * layout_.size();
    BackwardParams<T, A> params{};
    params.steps = shape_.direction(d);
    params.dims = shape_.dims;
    params.channels = reserve;
    params.cells = facts_.has_cell_state ? reinterpret_cast<const A*>(reserve + layout_.channels) : nullptr;
    params.w_hh = w.w_hh;
    params.w_hr = w.w_hr;
    params.unit_weights = w.unit_weights;
    if (shape_.unit_weights > 0) {
      params.grad_unit_weights = data<A>(grad_unit_weights_) + d * cell_state * shape_.unit_weights;
    }
    params.hx = data<const T>(hx_) + d * state;
    params.cx = cx_ ? data<const A>(*cx_) + d * cell_state : nullptr;
    params.output = data<const T>(output_) + d * recurrent_;
    params.output_stride = shape_.directions * recurrent_;
    params.grad_output = grad_output_ ? data<const T>(*grad_output_) + d * recurrent_ : nullptr;
    params.grad_output_stride = params.output_stride;
    params.grad_h = data<A>(grad_h_) + d * state;
    params.grad_c = grad_c_ ? data<A>(*grad_c_) + d * cell_state : nullptr;
    params.extras = extras_.of(d);
    params.extra_grads = extra_grads_.of(d);
    if (shape_.dims.projected) {
      params.grad_projected = data<T>(grad_projected_) + slot(d) * shape_.rows * recurrent_;
      if (shape_.padded_ragged) device_.zero(params.grad_projected, shape_.rows * recurrent_);
    }
    if (has_operand()) {
      params.operand = data<T>(operand_) + slot(d) * shape_.rows * hidden_;
      if (shape_.padded_ragged) device_.zero(params.operand, shape_.rows * hidden_);
    }
    return params;
  }

  // Whether a step has a second product.
  bool has_operand() const { return shape_.dims.projected || facts_.late_gates > 0; }

  DirectionRecord<T, A> record(const BackwardParams<T, A>& params) const {
    return {params.steps,
            params.grad_projected,
            params.operand,
            data<const T>(input_),
            params.output,
            params.output_stride,
            params.hx,
            extras_.change_previous_h() ? params.extras : nullptr,
            params.grad_unit_weights};
  }

  // Which of the buffers made for each direction that runs at the same time is this one's.
  int64_t slot(int64_t d) const { return d % loops_.at_once(); }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const ReserveLayout layout_;
  const int64_t hidden_, recurrent_, channel_columns_, gate_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  const Tensor output_, reserve_;
  Loops<T, T> loops_;
  const Stretches stretches_;
  const int64_t halves_;
  std::vector<bool> block_written_;  // the gradient of the input, by one direction
  const CallExtras<T, Device> extras_;
  const CallExtraGrads<T, Device> extra_grads_;
  std::optional<Tensor> cx_, grad_output_, grad_c_;
  Tensor grad_h_, grad_channels_, grad_projected_, operand_, grad_unit_weights_;
};

}  // namespace fastrnn::ops
