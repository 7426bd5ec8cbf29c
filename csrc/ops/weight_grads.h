// Gradients of one direction's weights and biases: large products over all steps at once, after the time loop.
#pragma once

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

template <class T, class Device>
class WeightGrads {
  using View = Matrix<const T>;

 public:
  // groups: see GradRequest.
  WeightGrads(const Device& device, const LayerShape& shape, const CellFacts& facts, const DirectionRecord<T>& record,
              int64_t groups)
      : device_(device),
        shape_(shape),
        facts_(facts),
        record_(record),
        stacked_(groups > 0),
        groups_(groups > 0 ? groups : 1) {
    STD_TORCH_CHECK(shape.batch % groups_ == 0, "fastrnn: the batch must be a multiple of groups");
    if (!shape.dense() || shape.rows == 0) gather_previous_h();
  }

  // In the order of LayerArgs::weights.
  void append_to(std::vector<Tensor>& grads) {
    const int64_t gate_columns = facts_.gates * hidden();
    const View input{record_.input, shape_.rows, shape_.input_size, shape_.input_size};
    const Tensor w_ih = make({gate_columns, shape_.input_size});
    for_each_group(w_ih, shape_.input_size, [&](const Matrix<T>& out, int64_t group) {
      device_.multiply(out, grad_columns(0, facts_.gates).every(group, groups_).transposed(),
                       input.every(group, groups_));
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
    return device_.empty(sizes, shape_.dtype);
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
    const int64_t columns = facts_.channels * hidden();
    return View{record_.grad_channels, shape_.rows, columns, columns}.column_range(
        first_channel * hidden(), (first_channel + channels) * hidden());
  }

  Tensor recurrent() const {
    const Tensor grad = make({facts_.gates * hidden(), recurrent_size()});
    for_each_group(grad, recurrent_size(), [&](const Matrix<T>& out, int64_t group) {
      // Neighbouring gates whose gradients lie side by side share a product.
      for (int gate = 0, end; gate < facts_.gates; gate = end) {
        const int channel = facts_.recurrent_channel[gate];
        for (end = gate + 1; end < facts_.gates && facts_.recurrent_channel[end] == channel + end - gate;) ++end;
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
      device_.multiply(out, some_grads.every(group, groups_).transposed(), h.every(group, groups_), accumulate);
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
    previous_h_ = device_.empty({shape_.rows, size}, shape_.dtype);
    T* out = data<T>(*previous_h_);
    if (shape_.padded_ragged) device_.zero(out, previous_h_->numel());
    device_.gather_previous_h(out, record_.steps, View{record_.output, shape_.rows, size, record_.output_stride},
                              record_.hx);
  }

  void append_biases(std::vector<Tensor>& grads) const {
    const int64_t gate_columns = facts_.gates * hidden();
    const Tensor b_ih = make({gate_columns}), b_hh = make({gate_columns});
    const Tensor sums_of_channels = device_.empty({facts_.channels * hidden()}, shape_.dtype);
    T* sums = data<T>(sums_of_channels);
    for (int64_t group = 0; group < groups_; ++group) {
      device_.sum_rows(sums, grad_columns(0, facts_.channels).every(group, groups_));
      device_.copy(data<T>(b_ih) + group * gate_columns, sums, gate_columns);
      for (int gate = 0; gate < facts_.gates; ++gate) {
        device_.copy(data<T>(b_hh) + group * gate_columns + gate * hidden(),
                     sums + facts_.recurrent_channel[gate] * hidden(), hidden());
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
      device_.multiply(out, grads.every(group, groups_).transposed(), h.every(group, groups_));
    });
    return grad;
  }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const DirectionRecord<T> record_;
  const bool stacked_;
  const int64_t groups_;
  std::optional<Tensor> previous_h_;  // (N, K) of ragged batches
};

}  // namespace fastrnn::ops
