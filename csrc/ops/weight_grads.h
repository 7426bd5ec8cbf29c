// Gradients of one direction's weights and biases: a large product over the steps of each chunk, after its time loop.
#pragma once

#include "shape.h"

namespace fastrnn::ops {

// What forward and the time loop left behind for one direction.
template <class T, class A>
struct DirectionRecord {
  Steps steps;
  const T* grad_projected;  // (N, P) or null
  const T* operand;         // (N, H) what a step's second product multiplies, or null
  const T* input;           // (N, input_size)
  int64_t input_size;
  const T* output;  // (N, output_stride), K columns
  int64_t output_stride;
  const T* hx;                     // (B, K)
  const Extras<T, A>* extras;      // if they change h_{t-1} in the product with w_hh, else null
  const A* grad_per_unit_weights;  // (B, per_unit_weights * H) or null
};

template <class T, class Device>
class WeightGrads {
  using View = Matrix<const T>;
  using Record = DirectionRecord<T, typename Device::template Accumulator<T>>;

 public:
  // The chunks that add() will be called for, in any order; none of it does anything unless weights are requested.
  WeightGrads(const Device& device, const LayerShape& shape, const CellFacts& facts, const Record& record,
              const GradRequest& request, const std::vector<Chunk>& chunks)
      : device_(device),
        shape_(shape),
        facts_(facts),
        record_(record),
        wanted_(request.weights),
        stacked_(request.groups > 0),
        groups_(stacked_ ? request.groups : 1),
        chunks_(chunks) {
    if (!wanted_) return;
    STD_TORCH_CHECK(shape.batch % groups_ == 0, "fastrnn: the batch must be a multiple of groups");
    w_ih_ = make({input_columns(), record.input_size});
    if (shape.multiplies_h) {
      if (!shape.dense() || shape.rows == 0 || record.extras) gather_previous_h();
      w_hh_ = make({product_columns(), recurrent_size()});
    }
    if (shape.dims.projected) w_hr_ = make({recurrent_size(), hidden()});
    if (shape.biases) sums_ = device.empty({groups_, chunk_count(), saved_columns()}, shape.dtype);
  }

  // Adds what chunk i contributes; grad_saved (its rows, C*H).
  void add(size_t i, const T* grad_saved) {
    if (!wanted_) return;
    const Chunk& chunk = chunks_[i];
    const View grads{grad_saved, chunk.end_row - chunk.first_row, saved_columns(), saved_columns()};
    const View input{record_.input, shape_.rows, record_.input_size, record_.input_size};
    const View in_chunk = input.row_range(chunk.first_row, chunk.end_row);
    for_each_group(w_ih_, record_.input_size, [&](const Matrix<T>& out, int64_t group) {
      device_.multiply(out, grads.column_range(0, input_columns()).every(group, groups_).transposed(),
                       in_chunk.every(group, groups_), added_);
    });
    if (shape_.multiplies_h) add_recurrent(chunk, grads);
    if (shape_.dims.projected) add_projection(chunk);
    for (int64_t group = 0; shape_.biases && group < groups_; ++group) {
      T* sums = data<T>(sums_) + (group * chunk_count() + static_cast<int64_t>(i)) * saved_columns();
      device_.sum_rows(sums, grads.every(group, groups_));
    }
    added_ = true;
  }

  // In the order of LayerArgs::weights.
  std::vector<Tensor> tensors() const {
    std::vector<Tensor> grads;
    if (!wanted_) return grads;
    grads.push_back(w_ih_);
    if (shape_.multiplies_h) grads.push_back(w_hh_);
    if (shape_.biases) append_biases(grads);
    if (shape_.dims.projected) grads.push_back(w_hr_);
    if (shape_.projection_bias) grads.push_back(projection_bias());
    if (shape_.per_unit_weights > 0) grads.push_back(per_unit_weights());
    return grads;
  }

 private:
  int64_t hidden() const { return shape_.dims.hidden_size; }
  int64_t recurrent_size() const { return shape_.dims.recurrent_size; }
  // Gates with biases and rows in w_hh, and with rows in w_ih.
  int64_t product_columns() const { return facts_.product_gates() * hidden(); }
  int64_t input_columns() const {
    return shape_.copies_input(record_.input_size) ? product_columns() : facts_.gates * hidden();
  }
  int64_t saved_columns() const { return facts_.saved_values * hidden(); }
  int64_t chunk_count() const { return static_cast<int64_t>(chunks_.size()); }

  Tensor make(std::vector<int64_t> sizes) const { return make(std::move(sizes), shape_.dtype); }
  Tensor make(std::vector<int64_t> sizes, ScalarType dtype) const {
    if (stacked_) sizes.insert(sizes.begin(), groups_);
    return device_.empty(sizes, dtype);
  }

  // Calls fill(matrix, group) with each group's part of a tensor made by make().
  template <class Fill>
  void for_each_group(const Tensor& tensor, int64_t columns, const Fill& fill) const {
    const int64_t size = tensor.numel() / groups_;
    for (int64_t group = 0; group < groups_; ++group) {
      fill(Matrix<T>{data<T>(tensor) + group * size, columns > 0 ? size / columns : 0, columns, columns}, group);
    }
  }

  View operand() const { return {record_.operand, shape_.rows, hidden(), hidden()}; }

  View slots(const View& grads, int64_t first, int64_t count) const {
    return grads.column_range(first * hidden(), (first + count) * hidden());
  }

  void add_recurrent(const Chunk& chunk, const View& grads) {
    const int first_pass = facts_.product_gates() - facts_.second_pass_gates;
    for_each_group(w_hh_, recurrent_size(), [&](const Matrix<T>& out, int64_t group) {
      // Neighbouring gates whose gradients lie side by side share a product.
      for (int gate = 0, end; gate < first_pass; gate = end) {
        const int slot = facts_.recurrent_slot[gate];
        for (end = gate + 1; end < first_pass && facts_.recurrent_slot[end] == slot + end - gate;) ++end;
        add_by_previous_h(out.row_range(gate * hidden(), end * hidden()), chunk, slots(grads, slot, end - gate), group);
      }
      if (facts_.second_pass_gates == 0) return;
      device_.multiply(out.row_range(first_pass * hidden(), product_columns()),
                       slots(grads, first_pass, facts_.second_pass_gates).every(group, groups_).transposed(),
                       operand().row_range(chunk.first_row, chunk.end_row).every(group, groups_), added_);
    });
  }

  // out += grads^T h_{t-1}, over the chunk's rows of the group.
  void add_by_previous_h(const Matrix<T>& out, const Chunk& chunk, const View& grads, int64_t group) const {
    const int64_t batch = shape_.batch, rows = grads.rows;
    bool accumulate = added_;
    const auto product = [&](const View& some_grads, const View& h) {
      device_.multiply(out, some_grads.every(group, groups_).transposed(), h.every(group, groups_), accumulate);
      accumulate = true;
    };
    if (previous_h_) {
      const View all{data<const T>(*previous_h_), shape_.rows, recurrent_size(), recurrent_size()};
      product(grads, all.row_range(chunk.first_row, chunk.end_row));
      return;
    }
    // Dense: h_{t-1} is the output a batch earlier (later, in reverse), and hx for the first step.
    const View output{record_.output, shape_.rows, recurrent_size(), record_.output_stride};
    const bool reverse = record_.steps.reverse, has_first = chunk.begin == 0;
    const int64_t of_first = has_first ? batch : 0;
    if (has_first) {
      const int64_t first = reverse ? rows - batch : 0;
      product(grads.row_range(first, first + batch), {record_.hx, batch, recurrent_size(), recurrent_size()});
    }
    if (rows == of_first) return;
    const int64_t begin = reverse ? 0 : of_first, end = reverse ? rows - of_first : rows;
    const int64_t shift = chunk.first_row + (reverse ? batch : -batch);
    product(grads.row_range(begin, end), output.row_range(begin + shift, end + shift));
  }

  // Row by row where neighbouring steps have different numbers of rows, or extras come between the steps.
  void gather_previous_h() {
    const int64_t size = recurrent_size();
    previous_h_ = device_.empty({shape_.rows, size}, shape_.dtype);
    T* out = data<T>(*previous_h_);
    if (shape_.padded_ragged) device_.zero(out, previous_h_->numel());
    device_.gather_previous_h(out, record_.steps, View{record_.output, shape_.rows, size, record_.output_stride},
                              record_.hx, record_.extras);
  }

  void append_biases(std::vector<Tensor>& grads) const {
    const Tensor b_ih = make({product_columns()}), total = device_.empty({saved_columns()}, shape_.dtype);
    const Tensor b_hh = shape_.multiplies_h ? make({product_columns()}) : b_ih;
    for (int64_t group = 0; group < groups_; ++group) {
      const T* parts = data<const T>(sums_) + group * chunk_count() * saved_columns();
      const T* sums = parts;
      if (chunk_count() > 1) {
        device_.sum_rows(data<T>(total), View{parts, chunk_count(), saved_columns(), saved_columns()});
        sums = data<const T>(total);
      }
      const int64_t first = group * product_columns();
      device_.copy(data<T>(b_ih) + first, sums + facts_.bias_slot * hidden(), product_columns());
      for (int gate = 0; shape_.multiplies_h && gate < facts_.product_gates(); ++gate) {
        device_.copy(data<T>(b_hh) + first + gate * hidden(), sums + facts_.recurrent_bias_slot[gate] * hidden(),
                     hidden());
      }
    }
    grads.push_back(b_ih);
    if (shape_.multiplies_h) grads.push_back(b_hh);
  }

  Tensor projection_bias() const {
    const Tensor sums = make({recurrent_size()});
    const View rows{record_.grad_projected, shape_.rows, recurrent_size(), recurrent_size()};
    for (int64_t group = 0; group < groups_; ++group) {
      device_.sum_rows(data<T>(sums) + group * recurrent_size(), rows.every(group, groups_));
    }
    return sums;
  }

  Tensor per_unit_weights() const {
    using A = typename Device::template Accumulator<T>;
    const int64_t columns = shape_.per_unit_weights * hidden();
    const Matrix<const A> rows{record_.grad_per_unit_weights, shape_.batch, columns, columns};
    const Tensor sums = make({shape_.per_unit_weights, hidden()}, scalar_type_of<A>);
    for (int64_t group = 0; group < groups_; ++group) {
      device_.sum_rows(data<A>(sums) + group * columns, rows.every(group, groups_));
    }
    return converted(sums, shape_.dtype);
  }

  void add_projection(const Chunk& chunk) {
    const View grads{record_.grad_projected, shape_.rows, recurrent_size(), recurrent_size()};
    const View h = operand();
    for_each_group(w_hr_, hidden(), [&](const Matrix<T>& out, int64_t group) {
      device_.multiply(out, grads.row_range(chunk.first_row, chunk.end_row).every(group, groups_).transposed(),
                       h.row_range(chunk.first_row, chunk.end_row).every(group, groups_), added_);
    });
  }

  const Device& device_;
  const LayerShape& shape_;
  const CellFacts& facts_;
  const Record record_;
  const bool wanted_, stacked_;
  const int64_t groups_;
  const std::vector<Chunk>& chunks_;
  Tensor w_ih_, w_hh_, w_hr_;
  Tensor sums_;                       // (groups, chunks, C*H): each chunk's sums over its rows
  bool added_ = false;                // there is something to add to
  std::optional<Tensor> previous_h_;  // (N, K) where it is not the output as it lies
};

}  // namespace fastrnn::ops
