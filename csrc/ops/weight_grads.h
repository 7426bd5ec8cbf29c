// Gradients of one direction's weights and biases: large products over all steps at once, after the time loop.
#pragma once

#include "matrix.h"
#include "shape.h"

namespace fastrnn::ops {

// What the time loop and forward left behind for one direction.
template <class T>
struct DirectionRecord {
  Steps steps;
  const T* grad_channels;   // (N, C*H)
  const T* grad_projected;  // (N, P) or null
  const T* hidden;          // (N, H) h before the projection, or null
  const T* input;           // (N, I)
  const T* output;          // (N, output_stride), K columns
  int64_t output_stride;
  const T* hx;  // (B, K)
};

template <class T>
class WeightGrads {
  using View = Matrix<const T>;

 public:
  // groups: see GradRequest.
  WeightGrads(const LayerShape& shape, const cpu::CellKernels<T>& kernels, const DirectionRecord<T>& record,
              int64_t groups)
      : shape_(shape), kernels_(kernels), record_(record), stacked_(groups > 0), groups_(groups > 0 ? groups : 1) {
    STD_TORCH_CHECK(shape.batch % groups_ == 0, "fastrnn: the batch must be a multiple of groups");
    if (!shape.sizes.empty() || shape.rows == 0) gather_previous_h();
  }

  // In the order of LayerArgs::weights.
  void append_to(std::vector<Tensor>& grads) {
    const int64_t gate_columns = kernels_.gates * hidden();
    const View input{record_.input, shape_.rows, shape_.input_size, shape_.input_size};
    const Tensor w_ih = make({gate_columns, shape_.input_size});
    for_each_group(w_ih, shape_.input_size, [&](const Matrix<T>& out, int64_t group) {
      multiply(out, grad_columns(0, kernels_.gates).every(group, groups_).transposed(), input.every(group, groups_));
    });
    grads.push_back(w_ih);
    grads.push_back(recurrent());
    if (shape_.biases) append_biases(grads);
    if (shape_.dims.projected) grads.push_back(projection());
  }

 private:
  int64_t hidden() const { return shape_.dims.hidden_size; }
  int64_t recurrent_size() const { return shape_.dims.recurrent_size; }

  Tensor make(std::vector<int64_t> sizes) const {
    if (stacked_) sizes.insert(sizes.begin(), groups_);
    return empty(sizes, shape_.dtype);
  }

  // Calls fill(matrix, group) with each group's part of a tensor made by make().
  template <class Fill>
  void for_each_group(const Tensor& tensor, int64_t columns, const Fill& fill) const {
    const int64_t size = tensor.numel() / groups_;
    for (int64_t group = 0; group < groups_; ++group) {
      fill(Matrix<T>{data<T>(tensor) + group * size, columns > 0 ? size / columns : 0, columns, columns}, group);
    }
  }

  View grad_columns(int64_t first_channel, int64_t channels) const {
    const int64_t columns = kernels_.channels * hidden();
    return View{record_.grad_channels, shape_.rows, columns, columns}.column_range(
        first_channel * hidden(), (first_channel + channels) * hidden());
  }

  Tensor recurrent() const {
    const Tensor grad = make({kernels_.gates * hidden(), recurrent_size()});
    for_each_group(grad, recurrent_size(), [&](const Matrix<T>& out, int64_t group) {
      // Neighbouring gates whose gradients lie side by side share a product.
      for (int gate = 0, end; gate < kernels_.gates; gate = end) {
        const int channel = kernels_.recurrent_channel[gate];
        for (end = gate + 1; end < kernels_.gates && kernels_.recurrent_channel[end] == channel + end - gate;) ++end;
        multiply_by_previous_h(out.row_range(gate * hidden(), end * hidden()), grad_columns(channel, end - gate),
                               group);
      }
    });
    return grad;
  }

  // out = grads^T h_{t-1}, over the group's rows.
  void multiply_by_previous_h(const Matrix<T>& out, const View& grads, int64_t group) const {
    const int64_t rows = shape_.rows, batch = shape_.batch;
    const auto product = [&](const View& some_grads, const View& h, bool accumulate) {
      multiply(out, some_grads.every(group, groups_).transposed(), h.every(group, groups_), accumulate);
    };
    if (previous_h_) {
      product(grads, {data<const T>(*previous_h_), rows, recurrent_size(), recurrent_size()}, false);
      return;
    }
    // Dense: h_{t-1} is the output a batch earlier (later, in reverse), and hx for the first step.
    const View hx{record_.hx, batch, recurrent_size(), recurrent_size()};
    const View output{record_.output, rows, recurrent_size(), record_.output_stride};
    const bool reverse = record_.steps.reverse;
    const int64_t first = reverse ? rows - batch : 0;
    product(grads.row_range(first, first + batch), hx, false);
    if (rows == batch) return;
    const int64_t later = reverse ? 0 : batch, earlier = reverse ? batch : 0;
    product(grads.row_range(later, later + rows - batch), output.row_range(earlier, earlier + rows - batch), true);
  }

  // Ragged: row by row, since neighbouring steps have different numbers of rows.
  void gather_previous_h() {
    const int64_t size = recurrent_size();
    previous_h_ = empty({shape_.rows, size}, shape_.dtype);
    T* out = data<T>(*previous_h_);
    if (shape_.padded_ragged) zero(out, previous_h_->numel());
    const Steps& steps = record_.steps;
    for (int64_t s = 0; s < steps.steps; ++s) {
      for (int64_t row = 0; row < steps.rows(s); ++row) {
        const T* from = row < steps.rows(s - 1) ? record_.output + (steps.offset(s - 1) + row) * record_.output_stride
                                                : record_.hx + row * size;
        copy(out + (steps.offset(s) + row) * size, from, size);
      }
    }
  }

  void append_biases(std::vector<Tensor>& grads) const {
    const int64_t gate_columns = kernels_.gates * hidden();
    const Tensor b_ih = make({gate_columns}), b_hh = make({gate_columns});
    std::vector<T> sums(static_cast<size_t>(kernels_.channels * hidden()));
    for (int64_t group = 0; group < groups_; ++group) {
      sum_rows(sums.data(), grad_columns(0, kernels_.channels).every(group, groups_));
      copy(data<T>(b_ih) + group * gate_columns, sums.data(), gate_columns);
      for (int gate = 0; gate < kernels_.gates; ++gate) {
        copy(data<T>(b_hh) + group * gate_columns + gate * hidden(),
             sums.data() + kernels_.recurrent_channel[gate] * hidden(), hidden());
      }
    }
    grads.push_back(b_ih);
    grads.push_back(b_hh);
  }

  Tensor projection() const {
    const View grads{record_.grad_projected, shape_.rows, recurrent_size(), recurrent_size()};
    const View h{record_.hidden, shape_.rows, hidden(), hidden()};
    const Tensor grad = make({recurrent_size(), hidden()});
    for_each_group(grad, hidden(), [&](const Matrix<T>& out, int64_t group) {
      multiply(out, grads.every(group, groups_).transposed(), h.every(group, groups_));
    });
    return grad;
  }

  const LayerShape& shape_;
  const cpu::CellKernels<T>& kernels_;
  const DirectionRecord<T> record_;
  const bool stacked_;
  const int64_t groups_;
  std::optional<Tensor> previous_h_;  // (N, K) of ragged batches
};

}  // namespace fastrnn::ops
