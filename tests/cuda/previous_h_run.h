// csrc/cuda/common/previous_h.cu as a run of tests/kernels/kernel_run.h.
#pragma once

#include <limits>

#include "cuda/common/previous_h.h"
#include "gpu.h"
#include "neutral_extras.h"

namespace fastrnn::test {

template <class T>
struct PreviousHParams {
  Steps steps;
  Matrix<const T> output;
  const T* hx;
  T* out;
  T* scratch;
};

template <class T>
struct PreviousHGpu : Gpu<T> {
  bool extended;

  explicit PreviousHGpu(bool extended) : Gpu<T>(Path::kStreamed), extended(extended) {}

  std::string name() const { return type_name<T>() + " previous_h" + (extended ? " extended" : ""); }
  std::string describe(const GpuPlan& plan) const { return "order=" + std::to_string(plan.seed); }
  double tolerance(const Case&, double) const { return std::numeric_limits<double>::min(); }

  int64_t scratch(const Case&, const PreviousHParams<T>&, const GpuPlan&) const { return 0; }
  void run(const Case& drawn, const PreviousHParams<T>& params, const GpuPlan& plan) const {
    const int64_t columns = params.output.columns;
    const Dims dims{drawn.batch, columns, columns, false};
    const NeutralExtras<T> added(params.steps, dims, false);
    const GpuMemory<T> hx(drawn.batch * columns);
    std::copy_n(params.hx, hx.size(), hx.data());
    if (extended) added.take_initial_states(hx.data(), nullptr);
    emulation::set_seed(plan.seed);
    cuda::gather_previous_h(params.out, params.steps, params.output, hx.data(), extended ? added.extras() : nullptr,
                            cuda::Queue{});
  }
};

template <class T>
class PreviousHRun final : public KernelRun<PreviousHGpu<T>> {
  using Base = KernelRun<PreviousHGpu<T>>;

 public:
  PreviousHRun(const PreviousHGpu<T>& machine, const Case& drawn, Report& report)
      : Base(machine, drawn, "gather", report) {
    const Problem& p = this->problem_;
    const Forward kept = as_kept<T, cuda::Accumulator<T>>(this->forward_);
    const Layout layout = this->output_layout();
    params_.steps = this->steps();
    params_.output = {this->input(kept.output, layout), p.rows, p.recurrent, layout.stride};
    params_.hx = this->input(p.hx, Layout::plain(p.batch, p.recurrent));
    this->products_read(kept.output);
    out_ = this->output("previous h", Layout::plain(p.rows, p.recurrent), {}, kept.h_before);
  }

  void run(const std::vector<GpuPlan>& plans) {
    this->run_all(plans, params_, [&] { params_.out = out_->reset(); });
  }

 private:
  PreviousHParams<T> params_{};
  typename Base::template Out<T>* out_;
};

}  // namespace fastrnn::test
