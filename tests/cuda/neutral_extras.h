// Extras that leave a call's results unchanged, so that the plain reference holds for them: masks of ones, nothing
// kept, a clip that nothing reaches, and at the first step reset states that replace the initial ones.
#pragma once

#include <algorithm>
#include <limits>

#include "gpu.h"

namespace fastrnn::test {

template <class T>
class NeutralExtras {
  using A = cuda::Accumulator<T>;
  template <class V>
  using Buffer = emulation::Buffer<V>;

 public:
  NeutralExtras(const Steps& steps, const Dims& dims, bool has_cell_state)
      : steps_(steps),
        dims_(dims),
        h_size_(dims.batch * dims.recurrent_size),
        c_size_(has_cell_state ? dims.batch * dims.hidden_size : 0),
        rows_(rows_of_data()),
        cuts_(count(rows_)),
        reset_h_(count(h_size_)),
        reset_c_(count(c_size_)),
        h_mask_(count(h_size_)),
        kept_h_(count(rows_ * dims.recurrent_size)),
        kept_c_(count(rows_ * dims.hidden_size)),
        grad_reset_h_(count(h_size_)),
        grad_reset_c_(count(c_size_)),
        grad_cells_(count(rows_ * dims.hidden_size)) {
    std::fill(h_mask_.begin(), h_mask_.end(), static_cast<T>(1.0f));
    std::fill(grad_reset_h_.begin(), grad_reset_h_.end(), A{});
    std::fill(grad_reset_c_.begin(), grad_reset_c_.end(), A{});
    for (int64_t s = 0; s < steps.steps; ++s) {
      for (int64_t row = 0; row < running(s); ++row) prepare(s, row);
    }
    extras_.cuts = cuts_.data();
    extras_.reset_h = reset_h_.data();
    extras_.h_mask = h_mask_.data();
    extras_.kept_h = kept_h_.data();
    grads_.reset_h = grad_reset_h_.data();
    grads_.cells_stride = dims.hidden_size;
    grads_.clip = std::numeric_limits<A>::max();
    if (!has_cell_state) return;
    extras_.reset_cell[0] = reset_c_.data();
    extras_.kept_cell[0] = kept_c_.data();
    grads_.reset_cell[0] = grad_reset_c_.data();
    grads_.cells[0] = grad_cells_.data();
  }

  // The rows of the first step find their initial state only in the reset states.
  void take_initial_states(T* h, A* c) const {
    move_started(h, reset_h_.data(), dims_.recurrent_size);
    if (c) move_started(c, reset_c_.data(), dims_.hidden_size);
  }
  // As in a plain call: the gradients of the initial states that a cut has held back.
  void add_reset_grads(A* grad_h, A* grad_c) const {
    for (int64_t k = 0; k < h_size_; ++k) grad_h[k] += grad_reset_h_[count(k)];
    for (int64_t k = 0; k < c_size_; ++k) grad_c[k] += grad_reset_c_[count(k)];
  }

  const Extras<T, A>* extras() const { return &extras_; }
  const ExtraGrads<T, A>* grads() const { return &grads_; }

 private:
  static size_t count(int64_t size) { return static_cast<size_t>(size); }

  int64_t rows_of_data() const {
    const int64_t last = steps_.steps - 1;
    return last < 0 ? 0 : steps_.offsets ? steps_.offsets[last] + steps_.sizes[last] : steps_.steps * dims_.batch;
  }
  int64_t running(int64_t s) const {
    const bool of_device = steps_.device_sizes && s >= 0 && s < steps_.steps;
    return of_device ? steps_.device_sizes[steps_.time(s)] : steps_.rows(s);
  }

  // A row that joins late must ignore its cut.
  void prepare(int64_t s, int64_t row) const {
    const int64_t at = steps_.offset(s) + row, K = dims_.recurrent_size, H = dims_.hidden_size;
    cuts_[count(at)] = row < running(s - 1) ? kNoCut : kCutState;
    std::fill_n(kept_h_.data() + at * K, K, T{});
    std::fill_n(kept_c_.data() + at * H, H, T{});
    std::fill_n(grad_cells_.data() + at * H, H, T{});
  }

  template <class V>
  void move_started(V* from, V* to, int64_t columns) const {
    const int64_t started = running(0) * columns;
    std::copy_n(from, started, to);
    std::fill_n(from, started, poison<V>());
  }

  const Steps& steps_;
  const Dims& dims_;
  const int64_t h_size_, c_size_, rows_;
  const Buffer<uint8_t> cuts_;
  const Buffer<T> reset_h_;
  const Buffer<A> reset_c_;
  const Buffer<T> h_mask_, kept_h_, kept_c_;
  const Buffer<A> grad_reset_h_, grad_reset_c_;
  const Buffer<T> grad_cells_;
  Extras<T, A> extras_{};
  ExtraGrads<T, A> grads_{};
};

// The streamed path with such extras.
template <class T>
class ExtendedGpu : public Gpu<T> {
  using A = cuda::Accumulator<T>;

 public:
  ExtendedGpu() : Gpu<T>(Path::kStreamed) {}

  std::string name() const { return Gpu<T>::name() + " extended"; }

  template <class Params>
  int64_t scratch(const Case& drawn, Params params, const GpuPlan& plan) const {
    const T one = static_cast<T>(1.0f);
    Extras<T, A> masked{};
    masked.h_mask = &one;
    params.extras = &masked;
    return Gpu<T>::scratch(drawn, params, plan);
  }
  void run(const Case& drawn, cuda::Forward<T> params, const GpuPlan& plan) const {
    const NeutralExtras<T> added(params.steps, params.dims, params.cell[0]);
    added.take_initial_states(params.hy, params.cell[0]);
    params.extras = added.extras();
    Gpu<T>::run(drawn, params, plan);
  }
  void run(const Case& drawn, cuda::Backward<T> params, const GpuPlan& plan) const {
    const NeutralExtras<T> added(params.steps, params.dims, params.cx[0]);
    const int64_t B = params.dims.batch, K = params.dims.recurrent_size, H = params.dims.hidden_size;
    const GpuMemory<T> hx(B * K);
    const GpuMemory<A> cx(params.cx[0] ? B * H : 0);
    std::copy_n(params.hx, hx.size(), hx.data());
    std::copy_n(params.cx[0], cx.size(), cx.data());
    added.take_initial_states(hx.data(), params.cx[0] ? cx.data() : nullptr);
    params.hx = hx.data();
    if (params.cx[0]) params.cx[0] = cx.data();
    params.extras = added.extras();
    params.extra_grads = added.grads();
    Gpu<T>::run(drawn, params, plan);
    added.add_reset_grads(params.grad_h, params.grad_cell[0]);
  }
};

}  // namespace fastrnn::test
