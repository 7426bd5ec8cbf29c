// The two passes: which buffers each takes, and what must have become of them.
#include "kernel_run.h"

namespace fastrnn::test {

namespace {

// (rows, from) with columns of kNothing added on the right: (rows, to).
Values widen(const Values& values, int64_t rows, int64_t from, int64_t to) {
  Values wide(static_cast<size_t>(rows * to), kNothing);
  for (int64_t i = 0; i < rows * from; ++i) wide[i / from * to + i % from] = values[i];
  return wide;
}

template <class T>
T* reset(Output<T>* output) {
  return output ? output->reset() : nullptr;
}

template <class T>
class ForwardRun final : public KernelRun<T> {
  using Base = KernelRun<T>;
  using Base::case_, Base::problem_, Base::forward_, Base::kernels_;

 public:
  ForwardRun(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report) : Base(kernels, drawn, report) {
    const Problem& p = problem_;
    const int64_t N = p.rows, B = p.batch, H = p.hidden, K = p.recurrent, columns = p.gates() * H;
    const bool keeps_channels = drawn.keep && kernels.keeps_channels, has_c = kernels.has_cell_state;
    params_.steps = this->steps();
    params_.dims = this->dims();
    params_.keep = drawn.keep;
    params_.w_hh = this->input(p.w_hh, Layout::plain(columns, K));
    params_.w_hr = this->input(p.w_hr, Layout::plain(K, H), p.projected);
    params_.b_ih = this->input(p.b_ih, Layout::plain(1, columns), drawn.biases);
    params_.b_hh = this->input(p.b_hh, Layout::plain(1, columns), drawn.biases);
    params_.hx = this->input(p.hx, Layout::plain(B, K));
    params_.output_stride = this->output_layout().stride;
    params_.channel_stride = keeps_channels ? p.channels() * H : columns;
    channels_ =
        this->output("channels", Layout::plain(N, params_.channel_stride),
                     widen(p.x, N, columns, params_.channel_stride), keeps_channels ? forward_.channels : Values{});
    output_ = this->output("output", this->output_layout(), {}, forward_.output);
    hy_ = this->output("hy", Layout::plain(B, K), {}, forward_.hy);
    cell_ = this->output("cell", Layout::plain(B, H), p.cx, forward_.cy, has_c);
    cells_ = this->output("cells", Layout::plain(N, H), {}, forward_.cells, has_c && drawn.keep);
  }

 private:
  const char* pass() const override { return "forward"; }
  int64_t scratch_size() const override { return kernels_.forward_scratch(params_.dims); }
  bool call(const cpu::Plan& plan, T* scratch) override {
    params_.channels = reset(channels_);
    params_.output = reset(output_);
    params_.hy = reset(hy_);
    params_.cell = reset(cell_);
    params_.cells = reset(cells_);
    params_.scratch = scratch;
    return kernels_.forward(params_, plan);
  }

  ForwardParams<T> params_{};
  Output<T>*channels_, *output_, *hy_, *cell_, *cells_;
};

// Starts from what the reference's forward kept, so that it fails for faults of its own alone.
template <class T>
class BackwardRun final : public KernelRun<T> {
  using Base = KernelRun<T>;
  using Base::case_, Base::problem_, Base::forward_, Base::kernels_;

 public:
  BackwardRun(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report) : Base(kernels, drawn, report) {
    const Problem& p = problem_;
    const int64_t N = p.rows, B = p.batch, H = p.hidden, K = p.recurrent, C = p.channels();
    const bool has_c = kernels.has_cell_state;
    const Backward after = run_backward(p, forward_);
    params_.steps = this->steps();
    params_.dims = this->dims();
    params_.channels = this->input(forward_.channels, Layout::plain(N, C * H), kernels.keeps_channels);
    params_.cells = this->input(forward_.cells, Layout::plain(N, H), has_c);
    params_.w_hh = this->input(p.w_hh, Layout::plain(p.gates() * H, K));
    params_.w_hr = this->input(p.w_hr, Layout::plain(K, H), p.projected);
    params_.hx = this->input(p.hx, Layout::plain(B, K));
    params_.cx = this->input(p.cx, Layout::plain(B, H), has_c);
    params_.output = this->input(forward_.output, this->output_layout());
    params_.output_stride = this->output_layout().stride;
    params_.grad_output = this->input(p.grad_output, this->output_layout(), drawn.grad_output);
    params_.grad_output_stride = this->output_layout().stride;
    grad_h_ = this->output("grad_h", Layout::plain(B, K), p.grad_hy, after.grad_hx);
    grad_c_ = this->output("grad_c", Layout::plain(B, H), p.grad_cy, after.grad_cx, has_c);
    grad_channels_ = this->output("grad_channels", Layout::plain(N, C * H), {}, after.grad_channels);
    grad_projected_ = this->output("grad_projected", Layout::plain(N, K), {}, after.grad_projected, p.projected);
    hidden_ = this->output("hidden", Layout::plain(N, H), {}, forward_.hidden, p.projected);
  }

 private:
  const char* pass() const override { return "backward"; }
  int64_t scratch_size() const override { return kernels_.backward_scratch(params_.dims); }
  bool call(const cpu::Plan& plan, T* scratch) override {
    params_.grad_h = reset(grad_h_);
    params_.grad_c = reset(grad_c_);
    params_.grad_channels = reset(grad_channels_);
    params_.grad_projected = reset(grad_projected_);
    params_.hidden = reset(hidden_);
    params_.scratch = scratch;
    return kernels_.backward(params_, plan);
  }

  BackwardParams<T> params_{};
  Output<T>*grad_h_, *grad_c_, *grad_channels_, *grad_projected_, *hidden_;
};

}  // namespace

template <class T>
std::unique_ptr<KernelRun<T>> make_forward(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report) {
  return std::make_unique<ForwardRun<T>>(kernels, drawn, report);
}

template <class T>
std::unique_ptr<KernelRun<T>> make_backward(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report) {
  return std::make_unique<BackwardRun<T>>(kernels, drawn, report);
}

template std::unique_ptr<KernelRun<float>> make_forward(const cpu::CellKernels<float>&, const Case&, Report&);
template std::unique_ptr<KernelRun<double>> make_forward(const cpu::CellKernels<double>&, const Case&, Report&);
template std::unique_ptr<KernelRun<float>> make_backward(const cpu::CellKernels<float>&, const Case&, Report&);
template std::unique_ptr<KernelRun<double>> make_backward(const cpu::CellKernels<double>&, const Case&, Report&);

}  // namespace fastrnn::test
