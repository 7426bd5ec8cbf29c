// Small products of torch's GEMM on the calling thread alone.
#pragma once

// Weak: null where torch's GEMM is not MKL's.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace fastrnn::ops {

// While it lives, MKL runs what the calling thread asks for on no other; what other threads ask for is theirs.
class OnOneThread {
 public:
  explicit OnOneThread(bool wanted) : wanted_(wanted && MKL_Set_Num_Threads_Local) {
    if (wanted_) before_ = MKL_Set_Num_Threads_Local(1);
  }
  ~OnOneThread() {
    if (wanted_) MKL_Set_Num_Threads_Local(before_);
  }
  OnOneThread(const OnOneThread&) = delete;

 private:
  const bool wanted_;
  int before_ = 0;  // the caller's own number, 0 for none
};

}  // namespace fastrnn::ops
