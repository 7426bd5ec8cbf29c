// What a call adds to the plain recurrence: from the op's tensors to what the time loops of each direction read.
#pragma once

#include <limits>

#include "shape.h"

namespace fastrnn::ops {

template <class Device>
std::optional<Tensor> dense_if(const Device& device, const std::optional<Tensor>& tensor) {
  if (!tensor) return {};
  return device.dense(*tensor);
}

template <class T, class Device>
class CallExtras {
  using A = typename Device::template Accumulator<T>;

 public:
  CallExtras(const Device& device, const LayerArgs& args, const LayerShape& shape) : shape_(shape) {
    if (!args.extras) return;
    const LayerExtras& extras = *args.extras;
    cuts_ = dense_if(device, extras.cuts);
    const std::vector<Tensor>& resets = extras.reset_states;
    if (extras.resets()) reset_h_ = device.dense(resets[0]);
    if (resets.size() > 1) reset_c_ = converted(device.dense(resets[1]), scalar_type_of<A>);
    h_mask_ = dense_if(device, extras.h_mask);
    kept_h_ = dense_if(device, extras.kept_of(0));
    kept_c_ = dense_if(device, extras.kept_of(1));
    for (int64_t d = 0; d < shape.directions; ++d) of_[d] = direction(d, extras);
    any_ = true;
  }
  CallExtras(const CallExtras&) = delete;

  // Null in a plain recurrence.
  const Extras<T, A>* of(int64_t d) const { return any_ ? &of_[d] : nullptr; }
  bool any() const { return any_; }
  // Whether h_{t-1} in the product with w_hh is ever another than the output of the step before, or hx.
  bool change_previous_h() const { return reset_h_ || h_mask_; }

 private:
  Extras<T, A> direction(int64_t d, const LayerExtras& extras) const {
    const int64_t batch = shape_.batch, rows = shape_.rows;
    const int64_t hidden = shape_.dims.hidden_size, recurrent = shape_.dims.recurrent_size;
    Extras<T, A> out{};
    if (cuts_) out.cuts = data<const uint8_t>(*cuts_) + d * rows;
    if (reset_h_) out.reset_h = data<const T>(*reset_h_) + d * batch * recurrent;
    if (reset_c_) out.reset_c = data<const A>(*reset_c_) + d * batch * hidden;
    if (h_mask_) out.h_mask = data<const T>(*h_mask_) + d * batch * recurrent;
    if (kept_h_) out.kept_h = data<const T>(*kept_h_) + d * rows * recurrent;
    if (kept_c_) out.kept_c = data<const T>(*kept_c_) + d * rows * hidden;
    out.share_h = static_cast<T>(static_cast<A>(extras.share_of(0)));
    out.share_c = static_cast<T>(static_cast<A>(extras.share_of(1)));
    out.activation = extras.activation(0);
    out.output_activation = extras.activation(1);
    return out;
  }

  const LayerShape& shape_;
  std::optional<Tensor> cuts_, reset_h_, reset_c_, h_mask_, kept_h_, kept_c_;
  Extras<T, A> of_[2]{};
  bool any_ = false;
};

// The gradients that extras bring with them.
template <class T, class Device>
class CallExtraGrads {
  using A = typename Device::template Accumulator<T>;

 public:
  CallExtraGrads(const Device& device, const LayerArgs& args, const LayerShape& shape,
                 const std::optional<Tensor>& grad_cells)
      : shape_(shape) {
    if (!args.extras) return;
    const auto zeros = [&](int64_t features) {
      const Tensor out = device.empty(shape.state_sizes(features), scalar_type_of<A>);
      device.zero(data<A>(out), out.numel());
      return out;
    };
    const std::vector<Tensor>& resets = args.extras->reset_states;
    if (args.extras->resets()) reset_h_ = zeros(shape.dims.recurrent_size);
    if (resets.size() > 1) reset_c_ = zeros(shape.dims.hidden_size);
    cells_ = dense_if(device, grad_cells);
    for (int64_t d = 0; d < shape.directions; ++d) of_[d] = direction(d, args.extras->clip);
    any_ = true;
  }
  CallExtraGrads(const CallExtraGrads&) = delete;

  const ExtraGrads<T, A>* of(int64_t d) const { return any_ ? &of_[d] : nullptr; }
  std::vector<Tensor> reset_states() const {
    std::vector<Tensor> grads;
    if (reset_h_) grads.push_back(converted(*reset_h_, shape_.dtype));
    if (reset_c_) grads.push_back(converted(*reset_c_, shape_.dtype));
    return grads;
  }

 private:
  ExtraGrads<T, A> direction(int64_t d, const std::optional<double>& clip) const {
    const int64_t hidden = shape_.dims.hidden_size;
    ExtraGrads<T, A> out{};
    if (reset_h_) out.reset_h = data<A>(*reset_h_) + d * shape_.batch * shape_.dims.recurrent_size;
    if (reset_c_) out.reset_c = data<A>(*reset_c_) + d * shape_.batch * hidden;
    if (cells_) out.cells = data<const T>(*cells_) + d * hidden;
    out.cells_stride = shape_.directions * hidden;
    out.clip = clip ? static_cast<A>(*clip) : std::numeric_limits<A>::infinity();
    return out;
  }

  const LayerShape& shape_;
  std::optional<Tensor> reset_h_, reset_c_, cells_;
  ExtraGrads<T, A> of_[2]{};
  bool any_ = false;
};

}  // namespace fastrnn::ops
