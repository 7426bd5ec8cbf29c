// csrc/cuda/run.cpp, whose kernels can be made to leave one wrong number. Takes its place in the emulated library.
#include "cuda/common/error.h"
#include "cuda/run.h"

#define run_forward right_forward
#define run_backward right_backward
namespace fastrnn::cuda {
template <class T>
void right_forward(CellKind cell, const Forward<T>* calls, const Plan& plan, const Queue& queue);
template <class T>
void right_backward(CellKind cell, const Backward<T>* calls, const Plan& plan, const Queue& queue);
}  // namespace fastrnn::cuda
#include "cuda/run.cpp"
#undef run_forward
#undef run_backward

namespace {

int spoilt_path = -1, spoilt_pass = -1;
enum Fault { kWrongNumber, kGivesUp, kDoesNotLaunch } fault;

}  // namespace

// From now on kernels of that path have that fault in that pass: 0 forward, 1 backward, -1 neither.
extern "C" __attribute__((visibility("default"))) void fastrnn_emulated_spoil(int path, int pass, int with) {
  spoilt_path = path;
  spoilt_pass = pass;
  fault = static_cast<Fault>(with);
}

namespace fastrnn::cuda {

namespace {

// One number: a kernel that is wrong in all of them would be found more easily.
template <class Call, class T>
void spoil(const Call& call, const Plan& plan, T* results) {
  T& last = results[call.dims.batch * call.dims.hidden_size - 1];
  if (fault == kWrongNumber) last = static_cast<T>(static_cast<float>(last) + 0.25f);
  if (fault == kGivesUp) {
    const WaitLimit limit = wait_limit(plan.path, kIsBackward<Call>, call.dims, call.steps.steps);
    *limit.report = limit.call;
  }
  if (fault == kDoesNotLaunch) check(cudaErrorCooperativeLaunchTooLarge);
}

bool spoils(const Plan& plan, int pass) { return pass == spoilt_pass && static_cast<int>(plan.path) == spoilt_path; }

}  // namespace

template <class T>
void run_forward(CellKind cell, const Forward<T>* calls, const Plan& plan, const Queue& queue) {
  right_forward(cell, calls, plan, queue);
  if (spoils(plan, 0)) spoil(*calls, plan, calls->hy);
}

template <class T>
void run_backward(CellKind cell, const Backward<T>* calls, const Plan& plan, const Queue& queue) {
  right_backward(cell, calls, plan, queue);
  if (spoils(plan, 1)) spoil(*calls, plan, calls->grad_h);
}

#define FASTRNN_INSTANTIATE(T)                                                          \
  template void run_forward<T>(CellKind, const Forward<T>*, const Plan&, const Queue&); \
  template void run_backward<T>(CellKind, const Backward<T>*, const Plan&, const Queue&);

FASTRNN_INSTANTIATE(double)
FASTRNN_INSTANTIATE(float)
FASTRNN_INSTANTIATE(__half)
FASTRNN_INSTANTIATE(__nv_bfloat16)

#undef FASTRNN_INSTANTIATE

}  // namespace fastrnn::cuda
