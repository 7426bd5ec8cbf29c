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
    for (const Tensor& reset : extras.reset_states) {
      resets_.push_back(resets_.empty() ? device.dense(reset) : converted(device.dense(reset), scalar_type_of<A>));
    }
    h_mask_ = dense_if(device, extras.h_mask);
    for (size_t s = 0; s < args.states.size(); ++s) kept_.push_back(dense_if(device, extras.kept_of(s)));
    for (int64_t d = 0; d < shape.directions; ++d) of_[d] = direction(d, extras);
    any_ = true;
  }
  CallExtras(const CallExtras&) = delete;

  // Null in a plain recurrence.
  const Extras<T, A>* of(int64_t d) const { return any_ ? &of_[d] : nullptr; }
  bool any() const { return any_; }
  // Whether h_{t-1} in the product with w_hh is ever another than the output of the step before, or hx.
  bool change_previous_h() const { return !resets_.empty() || h_mask_; }

 private:
  Extras<T, A> direction(int64_t d, const LayerExtras& extras) const {
    const int64_t batch = shape_.batch, rows = shape_.rows;
    const int64_t hidden = shape_.dims.hidden_size, recurrent = shape_.dims.recurrent_size;
    Extras<T, A> out{};
    if (cuts_) out.cuts = data<const uint8_t>(*cuts_) + d * rows;
    if (h_mask_) out.h_mask = data<const T>(*h_mask_) + d * batch * recurrent;
    const auto share = [&](size_t s) { return static_cast<T>(static_cast<A>(extras.share_of(s))); };
    if (!resets_.empty()) out.reset_h = data<const T>(resets_[0]) + d * batch * recurrent;
    if (kept_[0]) out.kept_h = data<const T>(*kept_[0]) + d * rows * recurrent;
    out.share_h = share(0);
    for (size_t s = 1; s < kept_.size(); ++s) {
      const int cell = static_cast<int>(s) - 1;
      if (!resets_.empty()) out.reset_cell[cell] = data<const A>(resets_[s]) + d * batch * hidden;
      if (kept_[s]) out.kept_cell[cell] = data<const T>(*kept_[s]) + d * rows * hidden;
      out.share_cell[cell] = share(s);
    }
    out.activation = extras.activation(0);
    out.output_activation = extras.activation(1);
    return out;
  }

  const LayerShape& shape_;
  std::optional<Tensor> cuts_, h_mask_;
  std::vector<Tensor> resets_;               // of each state, or none
  std::vector<std::optional<Tensor>> kept_;  // of each state
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
      : shape_(shape), cell_states_(cell_facts(args.cell).cell_states) {
    if (!args.extras) return;
    for (size_t s = 0; s < args.extras->reset_states.size(); ++s) {
      resets_.push_back(device.empty(shape.state_sizes(shape.state_size(s)), scalar_type_of<A>));
      device.zero(data<A>(resets_[s]), resets_[s].numel());
    }
    cells_ = dense_if(device, grad_cells);
    for (int64_t d = 0; d < shape.directions; ++d) of_[d] = direction(d, args.extras->clip);
    any_ = true;
  }
  CallExtraGrads(const CallExtraGrads&) = delete;

  const ExtraGrads<T, A>* of(int64_t d) const { return any_ ? &of_[d] : nullptr; }
  std::vector<Tensor> reset_states() const {
    std::vector<Tensor> grads;
    for (const Tensor& reset : resets_) grads.push_back(converted(reset, shape_.dtype));
    return grads;
  }

 private:
  ExtraGrads<T, A> direction(int64_t d, const std::optional<double>& clip) const {
    const int64_t hidden = shape_.dims.hidden_size;
    ExtraGrads<T, A> out{};
    if (!resets_.empty()) out.reset_h = data<A>(resets_[0]) + d * shape_.batch * shape_.dims.recurrent_size;
    for (int k = 0; k < cell_states_; ++k) {
      if (!resets_.empty())
        out.reset_cell[k] = data<A>(resets_[static_cast<size_t>(k) + 1]) + d * shape_.batch * hidden;
      if (cells_) out.cells[k] = data<const T>(*cells_) + (k * shape_.directions + d) * hidden;
    }
    out.cells_stride = cell_states_ * shape_.directions * hidden;
    out.clip = clip ? static_cast<A>(*clip) : std::numeric_limits<A>::infinity();
    return out;
  }

  const LayerShape& shape_;
  const int cell_states_;
  std::vector<Tensor> resets_;  // of each state, or none
  std::optional<Tensor> cells_;
  ExtraGrads<T, A> of_[2]{};
  bool any_ = false;
};

}  // namespace fastrnn::ops
