// One case on one kernel: buffers of exactly the promised sizes, the call, and the comparison with the reference.
#pragma once

#include <deque>
#include <memory>
#include <string>

#include "cases.h"
#include "cpu/kernels.h"
#include "cpu/plan.h"
#include "guarded.h"

namespace fastrnn::test {

// Collects what went wrong, and how near the bound the rest came.
class Report {
 public:
  void fail(const std::string& message);
  void note_error(double share_of_bound);
  bool enough() const { return failures_ >= kEnough; }
  int failures() const { return failures_; }
  double largest_error() const { return largest_error_; }

 private:
  static constexpr int kEnough = 10;
  int failures_ = 0;
  double largest_error_ = 0;
};

// The call that runs now: what to name if a sanitizer ends the program.
extern std::string current_call;

// What a kernel reads: kNothing becomes poison.
template <class T>
class Input {
 public:
  Input(const Values& values, const Layout& layout);
  const T* data() const { return memory_.data(); }

 private:
  Guarded<T> memory_;
};

// What a kernel writes, perhaps after reading it. Where `after` says kNothing, `before` must stay to the last bit.
template <class T>
class Output {
 public:
  // Both dense (rows, columns), or empty for kNothing everywhere.
  Output(const char* name, const Layout& layout, const Values& before, const Values& after);

  T* reset();  // as before the call
  void check(const std::string& where, Report& report);

 private:
  double expected(int64_t i) const;
  bool right(int64_t i, Report& report) const;
  std::string describe(int64_t i) const;

  const char* name_;
  Layout layout_;
  std::vector<T> before_;
  Values after_;
  std::vector<T> first_result_;
  Guarded<T> memory_;
};

// Everything of one call that does not change with the plan.
template <class T>
class KernelRun {
 public:
  KernelRun(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report);
  virtual ~KernelRun() = default;

  void run(const std::vector<cpu::Plan>& plans);

 protected:
  virtual const char* pass() const = 0;
  virtual bool call(const cpu::Plan& plan, T* scratch) = 0;
  virtual int64_t scratch_size() const = 0;

  Steps steps() const;
  Dims dims() const { return {problem_.batch, problem_.hidden, problem_.recurrent, problem_.projected}; }
  // (N, K) with room for the other direction's columns.
  Layout output_layout() const;
  // Inputs and outputs that stay null where `wanted` is false.
  const T* input(const Values& values, const Layout& layout, bool wanted = true);
  Output<T>* output(const char* name, const Layout& layout, const Values& before, const Values& after,
                    bool wanted = true);

  const cpu::CellKernels<T>& kernels_;
  const Case case_;
  const Problem problem_;
  const Forward forward_;

 private:
  Report& report_;
  std::deque<Input<T>> inputs_;
  std::deque<Output<T>> outputs_;
};

template <class T>
std::unique_ptr<KernelRun<T>> make_forward(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report);
template <class T>
std::unique_ptr<KernelRun<T>> make_backward(const cpu::CellKernels<T>& kernels, const Case& drawn, Report& report);

}  // namespace fastrnn::test
