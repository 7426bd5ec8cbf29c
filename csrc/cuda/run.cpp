#include "run.h"

namespace fastrnn::cuda {

namespace {

// Whether there are kernels that keep w_hh on the chip.
template <class T>
constexpr bool kHasStationary = !std::is_same_v<T, double>;

}  // namespace

template <class T>
int64_t forward_scratch(CellKind cell, const Forward<T>& params, const Plan& plan) {
  if constexpr (kHasStationary<T>) {
    if (plan.path == Path::kCluster) return 0;
    if (plan.path == Path::kPersistent) return persistent_kernels<T>(cell, plan.math).forward.scratch(plan.grid);
  }
  return streamed<T>(cell).forward_scratch(params);
}

template <class T>
int64_t backward_scratch(CellKind cell, const Backward<T>& params, const Plan& plan) {
  if constexpr (kHasStationary<T>) {
    if (plan.path == Path::kCluster) return 0;
    if (plan.path == Path::kPersistent)
      return persistent_kernels<T>(cell, plan.math).backward_of(plan.grid).scratch(plan.grid);
  }
  return streamed<T>(cell).backward_scratch(params);
}

template <class T>
void run_forward(CellKind cell, const Forward<T>* calls, const Plan& plan, const Queue& queue) {
  if constexpr (kHasStationary<T>) {
    if (plan.path == Path::kCluster) {
      return cluster_kernels<T>(cell, plan.units(calls->dims), plan.math).forward.run(calls, plan.grid, queue);
    }
    if (plan.path == Path::kPersistent) {
      return persistent_kernels<T>(cell, plan.math).forward.run(calls, plan.grid, queue);
    }
  }
  streamed<T>(cell).forward(*calls, queue);
}

template <class T>
void run_backward(CellKind cell, const Backward<T>* calls, const Plan& plan, const Queue& queue) {
  if constexpr (kHasStationary<T>) {
    if (plan.path == Path::kCluster) {
      return cluster_kernels<T>(cell, plan.units(calls->dims), plan.math).backward.run(calls, plan.grid, queue);
    }
    if (plan.path == Path::kPersistent) {
      return persistent_kernels<T>(cell, plan.math).backward_of(plan.grid).run(calls, plan.grid, queue);
    }
  }
  streamed<T>(cell).backward(*calls, queue);
}

#define FASTRNN_INSTANTIATE(T)                                                          \
  template int64_t forward_scratch<T>(CellKind, const Forward<T>&, const Plan&);        \
  template int64_t backward_scratch<T>(CellKind, const Backward<T>&, const Plan&);      \
  template void run_forward<T>(CellKind, const Forward<T>*, const Plan&, const Queue&); \
  template void run_backward<T>(CellKind, const Backward<T>*, const Plan&, const Queue&);

FASTRNN_INSTANTIATE(double)
FASTRNN_INSTANTIATE(float)
FASTRNN_INSTANTIATE(__half)
FASTRNN_INSTANTIATE(__nv_bfloat16)

#undef FASTRNN_INSTANTIATE

}  // namespace fastrnn::cuda
