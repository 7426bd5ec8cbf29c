#include "layer.h"

#include "shape.h"

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
  const cpu::Choice choice = plan_pass(shape, kernels.gates, sizeof(T), false);

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
    kernels.forward(params, choice.plan);
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
      : args_(args),
        shape_(shape),
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

  LayerInputGrads run(bool input_grad, bool weight_grads) {
    const Tensor scratch = empty({kernels_.backward_scratch(shape_.dims)}, shape_.dtype);
    result_.input = empty(input_grad ? sizes_like(input_, shape_.input_size) : std::vector<int64_t>{0}, shape_.dtype);
    for (int64_t d = 0; d < shape_.directions; ++d) {
      run_time_loop(d, data<T>(scratch));
      if (input_grad) {
        const Weights<T> w(weights_, shape_, d);
        multiply<const T, T>({data<T>(result_.input), shape_.rows, shape_.input_size, shape_.input_size}, input_side(),
                             {w.w_ih, gate_columns_, shape_.input_size, shape_.input_size}, d > 0);
      }
      if (weight_grads) add_weight_grads(d);
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
    kernels_.backward(params, plan_pass(shape_, kernels_.gates, sizeof(T), true).plan);
  }

  Matrix<const T> grad_columns(int64_t first_channel, int64_t channels) const {
    return Matrix<const T>{data<const T>(grad_channels_), shape_.rows, channel_columns_, channel_columns_}.column_range(
        first_channel * hidden_, (first_channel + channels) * hidden_);
  }
  // The gradients that multiply the input: the first kGates channels.
  Matrix<const T> input_side() const { return grad_columns(0, kernels_.gates); }

  void add_weight_grads(int64_t d) {
    Tensor w_ih = empty({gate_columns_, shape_.input_size}, shape_.dtype);
    multiply<const T, T>({data<T>(w_ih), gate_columns_, shape_.input_size, shape_.input_size},
                         input_side().transposed(),
                         {data<const T>(input_), shape_.rows, shape_.input_size, shape_.input_size});
    result_.weights.push_back(w_ih);
    result_.weights.push_back(recurrent_weight_grad(d));
    if (shape_.biases) add_bias_grads();
    if (shape_.dims.projected) {
      Tensor w_hr = empty({recurrent_, hidden_}, shape_.dtype);
      multiply<const T, T>(
          {data<T>(w_hr), recurrent_, hidden_, hidden_},
          Matrix<const T>{data<const T>(grad_projected_), shape_.rows, recurrent_, recurrent_}.transposed(),
          {data<const T>(unprojected_), shape_.rows, hidden_, hidden_});
      result_.weights.push_back(w_hr);
    }
  }

  Tensor recurrent_weight_grad(int64_t d) {
    const Tensor grad = empty({gate_columns_, recurrent_}, shape_.dtype);
    // Neighbouring gates whose gradients lie side by side share a product.
    for (int gate = 0, end; gate < kernels_.gates; gate = end) {
      const int channel = kernels_.recurrent_channel[gate];
      for (end = gate + 1; end < kernels_.gates && kernels_.recurrent_channel[end] == channel + end - gate;) ++end;
      const Matrix<T> out{data<T>(grad) + gate * hidden_ * recurrent_, (end - gate) * hidden_, recurrent_, recurrent_};
      multiply_by_previous_h(d, out, grad_columns(channel, end - gate));
    }
    return grad;
  }

  // out = grads^T h_{t-1}, over all rows.
  void multiply_by_previous_h(int64_t d, const Matrix<T>& out, const Matrix<const T>& grads) {
    const int64_t rows = shape_.rows, batch = shape_.batch, stride = shape_.directions * recurrent_;
    if (!shape_.sizes.empty() || rows == 0) {
      if (!previous_h_ || previous_h_direction_ != d) gather_previous_h(d);
      multiply<const T, T>(out, grads.transposed(), {data<const T>(*previous_h_), rows, recurrent_, recurrent_});
      return;
    }
    // Dense: h_{t-1} is the output a batch earlier (later, in reverse), and hx for the first step.
    const Matrix<const T> output{data<const T>(output_) + d * recurrent_, rows, recurrent_, stride};
    const Matrix<const T> hx{data<const T>(hx_) + d * batch * recurrent_, batch, recurrent_, recurrent_};
    const bool reverse = d == 1;
    const int64_t first = reverse ? rows - batch : 0;
    multiply<const T, T>(out, grads.row_range(first, first + batch).transposed(), hx);
    if (rows == batch) return;
    const int64_t later = reverse ? 0 : batch, earlier = reverse ? batch : 0;
    multiply<const T, T>(out, grads.row_range(later, later + rows - batch).transposed(),
                         output.row_range(earlier, earlier + rows - batch), true);
  }

  void gather_previous_h(int64_t d) {
    previous_h_ = empty({shape_.rows, recurrent_}, shape_.dtype);
    previous_h_direction_ = d;
    T* out = data<T>(*previous_h_);
    const T* output = data<const T>(output_) + d * recurrent_;
    const T* hx = data<const T>(hx_) + d * shape_.batch * recurrent_;
    if (shape_.padded_ragged) zero(out, previous_h_->numel());
    const Steps steps = shape_.direction(d);
    for (int64_t s = 0; s < steps.steps; ++s) {
      for (int64_t row = 0; row < steps.rows(s); ++row) {
        const T* from = row < steps.rows(s - 1) ? output + (steps.offset(s - 1) + row) * shape_.directions * recurrent_
                                                : hx + row * recurrent_;
        copy(out + (steps.offset(s) + row) * recurrent_, from, recurrent_);
      }
    }
  }

  void add_bias_grads() {
    const Tensor sums = sum_rows(grad_columns(0, kernels_.channels));
    Tensor b_ih = empty({gate_columns_}, shape_.dtype), b_hh = empty({gate_columns_}, shape_.dtype);
    copy(data<T>(b_ih), data<const T>(sums), gate_columns_);
    for (int gate = 0; gate < kernels_.gates; ++gate) {
      copy(data<T>(b_hh) + gate * hidden_, data<const T>(sums) + kernels_.recurrent_channel[gate] * hidden_, hidden_);
    }
    result_.weights.push_back(b_ih);
    result_.weights.push_back(b_hh);
  }

  const LayerArgs& args_;
  const LayerShape& shape_;
  const cpu::CellKernels<T>& kernels_;
  const ReserveLayout<T> layout_;
  const int64_t hidden_, recurrent_, channel_columns_, gate_columns_;
  const Tensor input_, hx_;
  const std::vector<Tensor> weights_;
  const Tensor output_, reserve_;
  Tensor grad_channels_;
  std::optional<Tensor> cx_, grad_output_, previous_h_;
  int64_t previous_h_direction_ = -1;
  Tensor grad_projected_, unprojected_;
  LayerInputGrads result_;
};

}  // namespace

LayerOutputs layer_forward(const LayerArgs& args, bool keep) {
  const LayerShape shape = check_layer(args);
  return shape.dtype == ScalarType::Float ? forward<float>(args, shape, keep) : forward<double>(args, shape, keep);
}

LayerInputGrads layer_backward(const LayerArgs& args, const LayerGrads& grads, const Tensor& output,
                               const Tensor& reserve, bool input_grad, bool weight_grads) {
  const LayerShape shape = check_layer(args);
  if (shape.dtype == ScalarType::Float) {
    return Backward<float>(args, shape, grads, output, reserve).run(input_grad, weight_grads);
  }
  return Backward<double>(args, shape, grads, output, reserve).run(input_grad, weight_grads);
}

}  // namespace fastrnn::ops
