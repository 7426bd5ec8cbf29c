// What this process knows of the kernels that keep w_hh on the chip: which of them give the streamed path's results on
// the GPU that is there.
#pragma once

#include <array>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "../cuda/plan.h"
#include "tensor.h"

namespace fastrnn::ops {

// All that a kernel's blocks, their order and their memory depend on.
struct VerifiedKernel {
  int device;
  CellKind cell;
  ScalarType dtype;
  bool backward;
  Dims dims;
  cuda::Plan plan;

  using Key = std::array<int64_t, 13>;
  Key key() const;
  // Such as "the cluster kernel of LSTM, forward, in float16 (hidden_size 512, batch 16)".
  std::string words() const;
};

enum class Verdict { kRight, kWrong };

class Verdicts {
 public:
  // Of the process.
  static Verdicts& instance();

  std::optional<Verdict> of(const VerifiedKernel& kernel);

  // Calls judge(), which returns what is wrong, "" if nothing is, unless the verdict is known: one at a time on each
  // device, since what one device waits for may be what another thread is about to start on the next. If something is
  // wrong, warns, but not under a lock: a handler of warnings may wait for others.
  template <class Judge>
  Verdict find(const VerifiedKernel& kernel, const Judge& judge) {
    std::string fault;
    {
      const std::lock_guard lock(judging(kernel.device));
      if (const std::optional<Verdict> known = of(kernel)) return *known;
      fault = judge();
      set(kernel, fault.empty() ? Verdict::kRight : Verdict::kWrong);
    }
    if (fault.empty()) return Verdict::kRight;
    warn(kernel, fault);
    return Verdict::kWrong;
  }

 private:
  std::mutex& judging(int device);
  void set(const VerifiedKernel& kernel, Verdict verdict);
  static void warn(const VerifiedKernel& kernel, const std::string& fault);

  std::mutex known_;
  std::map<int, std::mutex> judging_;
  std::map<VerifiedKernel::Key, Verdict> verdicts_;
};

// Whether kernels are to be verified at their first use: unless FASTRNN_CUDA_VERIFY=0.
bool wants_verification();

// Whether a graph is captured on the stream, or nobody can say.
bool is_capturing(cudaStream_t stream);

}  // namespace fastrnn::ops
