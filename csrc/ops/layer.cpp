#include "layer.h"

#include "matrix.h"
#include "shape.h"
#include "weight_grads.h"

namespace fastrnn::ops {

namespace {

std::vector<Tensor> all_dense(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> out;
  out.reserve(tensors.size());
  for (const Tensor& tensor : tensors) out.push_back(dense(tensor));
  return out;
}

std::vector<int64_t> sizes_like(const Tensor& input, int64_t columns) {
  if (input.dim() == 2) return {input.size(0), columns};
  return {input.size(0), input.size(1), columns};
}

// The state that a gradient is accumulated in: a copy of what arrives, or zeros.
template <class T>
Tensor copy_or_zeros(const std::optional<Tensor>& from, const std::vector<int64_t>& sizes) {
  const Tensor out = empty(sizes, scalar_type_of<T>);
  if (from) {
    STD_TORCH_CHECK(from->scalar_type() == scalar_type_of<T> && from->numel() == out.numel(),
                    "fastrnn: a gradient or cx does not fit");
    copy(data<T>(out), data<const T>(dense(*from)), out.numel());
  } else {
    zero(data<T>(out), out.numel());
  }
  return out;
}

template <class T>
LayerOutputs forward(const LayerArgs& args, const LayerShape& shape, bool keep) {
  const auto& kernels = cpu::cell_kernels<T>(cpu::kernels(), args.cell);
  const Dims& dims = shape.dims;
  const int64_t hidden = dims.hidden_size, recurrent = dims.recurrent_size;
  const int64_t state = shape.batch * recurrent, cell_state = shape.batch * hidden;
  const ReserveLayout<T> layout(kernels, shape.rows, hidden);
  const Tensor input = dense(args.input), hx = dense(args.hx);
  const std::vector<Tensor> weights = all_dense(args.weights);

  LayerOutputs out{empty(sizes_like(input, shape.directions * recurrent), shape.dtype),
                   empty({shape.directions, shape.batch, recurrent}, shape.dtype),
                   {},
                   empty({keep ? shape.directions * layout.size() : 0}, shape.dtype)};
  if (args.cx) out.cy = copy_or_zeros<T>(args.cx, {shape.directions, shape.batch, hidden});
  if (shape.padded_ragged) zero(data<T>(out.output), out.output.numel());

  const int64_t gate_columns = kernels.gates * hidden;
  const bool keep_channels = keep && kernels.keeps_channels;
  const int64_t channel_columns = keep_channels ? kernels.channels * hidden : gate_columns;
  const Tensor scratch = empty({kernels.forward_scratch(dims)}, shape.dtype);
  const Tensor projections = empty({keep_channels ? 0 : shape.rows * channel_columns}, shape.dtype);
  const cpu::Plan plan = plan_pass(shape, kernels.gates, sizeof(T), false).plan;

  for (int64_t d = 0; d < shape.directions; ++d) {
    const Weights<T> w(weights, shape, d);
    T* reserve = data<T>(out.reserve) + (keep ? d * layout.size() : 0);
    T* channels = keep_channels ? reserve : data<T>(projections);
    multiply<const T, T>({channels, shape.rows, gate_columns, channel_columns},
                         {data<const T>(input), shape.rows, shape.input_size, shape.input_size},
                         Matrix<const T>{w.w_ih, gate_columns, shape.input_size, shape.input_size}.transposed());
    ForwardParams<T> params{};
    params.steps = shape.direction(d);
    params.dims = dims;
    params.channels = channels;
    params.channel_stride = channel_columns;
    params.keep = keep;
    params.w_hh = w.w_hh;
    params.w_hr = w.w_hr;
    params.b_ih = w.b_ih;
    params.b_hh = w.b_hh;
    params.hx = data<const T>(hx) + d * state;
    params.output = data<T>(out.output) + d * recurrent;
    params.output_stride = shape.directions * recurrent;
    params.hy = data<T>(out.hy) + d * state;
    params.cell = out.cy ? data<T>(*out.cy) + d * cell_state : nullptr;
    params.cells = keep ? reserve + layout.channels : nullptr;
    params.scratch = data<T>(scratch);
    check_finished(kernels.forward(params, plan));
  }
  return out;
}

// Backward of one layer: the time loop of each direction, then one large product for each gradient that all steps
// share.
template <class T>
class Backward {
 public:
  Backward(const LayerArgs& args, const LayerShape& shape, const LayerGrads& grads, const Tensor& output,
           const Tensor& reserve)
      : shape_(shape),
        kernels_(cpu::cell_kernels<T>(cpu::kernels(), args.cell)),
        layout_(kernels_, shape.rows, shape.dims.hidden_size),
        hidden_(shape.dims.hidden_size),
        recurrent_(shape.dims.recurrent_size),
        channel_columns_(kernels_.channels * hidden_),
        gate_columns_(kernels_.gates * hidden_),
        input_(dense(args.input)),
        hx_(dense(args.hx)),
        weights_(all_dense(args.weights)),
        output_(output),
        reserve_(reserve),
        grad_channels_(empty({shape.rows * channel_columns_}, shape.dtype)) {
    check_saved();
    if (args.cx) cx_ = dense(*args.cx);
    if (grads.output) {
      grad_output_ = dense(*grads.output);
      STD_TORCH_CHECK(grad_output_->scalar_type() == shape.dtype && grad_output_->numel() == output.numel(),
                      "fastrnn: the gradient of output does not fit");
    }
    result_.hx = copy_or_zeros<T>(grads.hy, {shape.directions, shape.batch, recurrent_});
    if (args.cx) result_.cx = copy_or_zeros<T>(grads.cy, {shape.directions, shape.batch, hidden_});
    if (shape.dims.projected) {
      grad_projected_ = empty({shape.rows * recurrent_}, shape.dtype);
      unprojected_ = empty({shape.rows * hidden_}, shape.dtype);
    }
  }

  LayerInputGrads run(const GradRequest& request) {
    const Tensor scratch = empty({kernels_.backward_scratch(shape_.dims)}, shape_.dtype);
    result_.input =
        empty(request.input ? sizes_like(input_, shape_.input_size) : std::vector<int64_t>{0}, shape_.dtype);
    for (int64_t d = 0; d < shape_.directions; ++d) {
      run_time_loop(d, data<T>(scratch));
      if (request.input) {
        const Weights<T> w(weights_, shape_, d);
        multiply<const T, T>({data<T>(result_.input), shape_.rows, shape_.input_size, shape_.input_size},
                             {data<const T>(grad_channels_), shape_.rows, gate_columns_, channel_columns_},
                             {w.w_ih, gate_columns_, shape_.input_size, shape_.input_size}, d > 0);
      }
      if (request.weights) {
        WeightGrads<T>(shape_, kernels_, record(d), request.groups).append_to(result_.weights);
      }
    }
    return std::move(result_);
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

  void run_time_loop(int64_t d, T* scratch) {
    const Weights<T> w(weights_, shape_, d);
    const int64_t state = shape_.batch * recurrent_, cell_state = shape_.batch * hidden_;
    // The kernels write no row that did not run, and the products below read them all.
    if (shape_.padded_ragged) {
      for (Tensor* tensor : {&grad_channels_, &grad_projected_, &unprojected_}) {
        if (tensor->defined()) zero(data<T>(*tensor), tensor->numel());
      }
    }
    const T* reserve = data<const T>(reserve_) + d * layout_.size();
    BackwardParams<T> params{};
    params.steps = shape_.direction(d);
    params.dims = shape_.dims;
    params.channels = reserve;
    params.cells = reserve + layout_.channels;
    params.w_hh = w.w_hh;
    params.w_hr = w.w_hr;
    params.hx = data<const T>(hx_) + d * state;
    params.cx = cx_ ? data<const T>(*cx_) + d * cell_state : nullptr;
    params.output = data<const T>(output_) + d * recurrent_;
    params.output_stride = shape_.directions * recurrent_;
    params.grad_output = grad_output_ ? data<const T>(*grad_output_) + d * recurrent_ : nullptr;
    params.grad_output_stride = params.output_stride;
    params.grad_h = data<T>(result_.hx) + d * state;
    params.grad_c = result_.cx ? data<T>(*result_.cx) + d * cell_state : nullptr;
    params.grad_channels = data<T>(grad_channels_);
    if (shape_.dims.projected) {
      params.grad_projected = data<T>(grad_projected_);
      params.hidden = data<T>(unprojected_);
    }
    params.scratch = scratch;
    check_finished(kernels_.backward(params, plan_pass(shape_, kernels_.gates, sizeof(T), true).plan));
  }

  DirectionRecord<T> record(int64_t d) const {
    const bool projected = shape_.dims.projected;
    return {shape_.direction(d),
            data<const T>(grad_channels_),
            projected ? data<const T>(grad_projected_) : nullptr,
            projected ? data<const T>(unprojected_) : nullptr,
            data<const T>(input_),
            data<const T>(output_) + d * recurrent_,
            shape_.directions * recurrent_,
            data<const T>(hx_) + d * shape_.batch * recurrent_};
  }

  const LayerShape& shape_;
  const cpu::CellKernels<T>& kernels_;
  const ReserveLayout<T> layout_;
  const int64_t hidden_, recurrent_, channel_columns_, gate_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  const Tensor output_, reserve_;
  Tensor grad_channels_;
  std::optional<Tensor> cx_, grad_output_;
  Tensor grad_projected_, unprojected_;
  LayerInputGrads result_;
};

}  // namespace

LayerOutputs layer_forward(const LayerArgs& args, bool keep) {
  const LayerShape shape = check_layer(args);
  return shape.dtype == ScalarType::Float ? forward<float>(args, shape, keep) : forward<double>(args, shape, keep);
}

LayerInputGrads layer_backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                               const Tensor& reserve, const GradRequest& request) {
  const LayerShape shape = check_layer(args);
  if (shape.dtype == ScalarType::Float) {
    return Backward<float>(args, shape, grads, output, reserve).run(request);
  }
  return Backward<double>(args, shape, grads, output, reserve).run(request);
}

}  // namespace fastrnn::ops
