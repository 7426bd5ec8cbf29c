#include "kernel_run.h"

#include <cmath>
#include <cstdio>
#include <sstream>

namespace fastrnn::test {

namespace {

// Relative to 1 + |expected|. Ten times what the sums of up to 260 products and the activations' two ulps come to.
template <class T>
constexpr double kTolerance = sizeof(T) == 4 ? 2e-5 : 4e-14;

// Values in memory as the layout says, poison where there are none.
template <class T>
void lay_out(const Values& values, const Layout& layout, T* out) {
  for (int64_t i = 0; i < layout.size(); ++i) out[i] = poison(T{});
  if (values.empty()) return;
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t column = 0; column < layout.columns; ++column) {
      const double value = values[row * layout.columns + column];
      T& place = out[row * layout.stride + layout.offset + column];
      if (!std::isnan(value)) place = static_cast<T>(value);
    }
  }
}

template <class T>
bool same_bits(const T* a, const T* b, int64_t count) {
  return count == 0 || std::memcmp(a, b, static_cast<size_t>(count) * sizeof(T)) == 0;
}

const char* split_name(cpu::Split split) {
  return split == cpu::Split::kBatch ? "batch" : split == cpu::Split::kUnits ? "units" : "none";
}

}  // namespace

std::string current_call;

void Report::fail(const std::string& message) {
  ++failures_;
  std::fprintf(stderr, "FAILED %s\n", message.c_str());
}

void Report::note_error(double share_of_bound) { largest_error_ = std::fmax(largest_error_, share_of_bound); }

template <class T>
Input<T>::Input(const Values& values, const Layout& layout) : memory_(layout.size()) {
  lay_out(values, layout, memory_.data());
}

template <class T>
Output<T>::Output(const char* name, const Layout& layout, const Values& before, const Values& after)
    : name_(name), layout_(layout), before_(static_cast<size_t>(layout.size())), after_(after), memory_(layout.size()) {
  lay_out(before, layout, before_.data());
}

template <class T>
T* Output<T>::reset() {
  std::copy(before_.begin(), before_.end(), memory_.data());
  return memory_.data() + layout_.offset;
}

// What value i of the memory should be; kNothing if what it was.
template <class T>
double Output<T>::expected(int64_t i) const {
  const int64_t row = i / layout_.stride, column = i % layout_.stride - layout_.offset;
  const bool inside = column >= 0 && column < layout_.columns;
  return inside && !after_.empty() ? after_[row * layout_.columns + column] : kNothing;
}

template <class T>
bool Output<T>::right(int64_t i, Report& report) const {
  const double wanted = expected(i);
  const T got = memory_.data()[i];
  if (std::isnan(wanted)) return same_bits(&got, &before_[i], 1);
  const double share = std::fabs(got - wanted) / (1 + std::fabs(wanted)) / kTolerance<T>;
  report.note_error(share);
  return share <= 1;
}

template <class T>
std::string Output<T>::describe(int64_t i) const {
  std::ostringstream out;
  out << name_ << "[" << i / layout_.stride << ", " << i % layout_.stride - layout_.offset << "] is "
      << memory_.data()[i];
  if (std::isnan(expected(i))) {
    out << ", but was not to be written";
  } else {
    out << ", not " << expected(i);
  }
  return out.str();
}

template <class T>
void Output<T>::check(const std::string& where, Report& report) {
  for (int64_t i = 0; i < memory_.size(); ++i) {
    if (right(i, report)) continue;
    report.fail(where + ": " + describe(i));
    break;
  }
  if (!memory_.margin_intact()) report.fail(where + ": something was written before " + name_);
  if (first_result_.empty()) {
    first_result_.assign(memory_.data(), memory_.data() + memory_.size());
  } else if (!same_bits(first_result_.data(), memory_.data(), memory_.size())) {
    report.fail(where + ": the bits of " + name_ + " differ from those of the first plan");
  }
}

template <class T>
KernelRun<T>::KernelRun(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report)
    : kernels_(kernels),
      case_(drawn),
      problem_(draw_problem<T>(drawn)),
      forward_(run_forward(problem_)),
      report_(report) {}

template <class T>
void KernelRun<T>::run(const std::vector<cpu::Plan>& plans) {
  for (const cpu::Plan& plan : plans) {
    std::ostringstream where;
    where << case_.name() << (sizeof(T) == 4 ? " f32 " : " f64 ") << pass() << " threads=" << plan.threads
          << " split=" << split_name(plan.split);
    current_call = where.str();
    const Guarded<T> scratch(scratch_size());
    if (!call(plan, scratch.data())) report_.fail(current_call + ": interrupted, by nobody");
    for (Output<T>& out : outputs_) out.check(current_call, report_);
    if (!scratch.margin_intact()) report_.fail(current_call + ": something was written before scratch");
  }
}

template <class T>
Steps KernelRun<T>::steps() const {
  const bool dense = case_.shape == Shape::kDense, packed = case_.shape == Shape::kPacked;
  return {problem_.steps, problem_.batch, dense ? nullptr : problem_.sizes.data(),
          packed ? problem_.offsets.data() : nullptr, problem_.reverse};
}

template <class T>
Layout KernelRun<T>::output_layout() const {
  const int64_t K = problem_.recurrent;
  if (!case_.second_direction) return Layout::plain(problem_.rows, K);
  return {problem_.rows, K, 2 * K, problem_.reverse ? K : 0};
}

template <class T>
const T* KernelRun<T>::input(const Values& values, const Layout& layout, bool wanted) {
  if (!wanted) return nullptr;
  return inputs_.emplace_back(values, layout).data() + layout.offset;
}

template <class T>
Output<T>* KernelRun<T>::output(const char* name, const Layout& layout, const Values& before, const Values& after,
                                bool wanted) {
  return wanted ? &outputs_.emplace_back(name, layout, before, after) : nullptr;
}

template class Output<float>;
template class Output<double>;
template class KernelRun<float>;
template class KernelRun<double>;

}  // namespace fastrnn::test
