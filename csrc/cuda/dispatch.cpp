#include "dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "error.h"

namespace fastrnn::cuda {

namespace {

// Whether there are persistent kernels at all: they multiply on tensor cores.
template <class T>
constexpr bool kHasPersistent = !std::is_same_v<T, double>;

int attribute_of_current_device(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// Blocks of a pass that the whole device can run at once.
template <class T>
int64_t device_capacity(CellKind cell, const Dims& dims, bool backward) {
  const PersistentKernels<T>& kernels = persistent<T>(cell);
  const int64_t resident = backward ? kernels.backward.resident_blocks(dims) : kernels.forward.resident_blocks(dims);
  return resident * attribute_of_current_device(cudaDevAttrMultiProcessorCount);
}

// FASTRNN_CUDA_PATH=streamed keeps the persistent kernels out: to compare the two ways, or to rule one out.
bool persistent_refused() {
  const char* path = std::getenv("FASTRNN_CUDA_PATH");
  if (!path || !*path) return false;
  if (std::string_view(path) == "streamed") return true;
  throw std::runtime_error("fastrnn: FASTRNN_CUDA_PATH=" + std::string(path) + ": use streamed, or leave it unset");
}

constexpr int kLeastCapability = 8;  // major: asynchronous copies, tensor cores for TF32 and bfloat16

}  // namespace

// No figure decides between the paths yet: a persistent kernel runs wherever one can. benchmarks/gpu.py is to find
// where the streamed path is the faster one.
template <class T>
Choice choose_plan(CellKind cell, const Workload& work, bool backward) {
  const auto stream = [](const char* reason) { return Choice{{Path::kStreamed, {}}, reason}; };
  if constexpr (!kHasPersistent<T>) {
    return stream("float64 has no persistent kernel");
  } else {
    if (std::is_same_v<T, float> && !work.allow_tf32) {
      return stream("persistent kernels compute float32 products in TF32, which is not allowed");
    }
    if (persistent_refused()) return stream("FASTRNN_CUDA_PATH=streamed");
    if (work.extended) return stream("persistent kernels know nothing but the plain recurrence");
    if (work.dims.projected) return stream("persistent kernels have no projection");
    if (work.packed) return stream("persistent kernels take sequence lengths from the GPU alone");
    if (work.steps <= 1) return stream("a single step leaves nothing to keep on the chip");
    if (work.dims.hidden_size % kUnitsPerBlock != 0) return stream("hidden_size is not a multiple of 16");
    if (work.dims.hidden_size == 0 || work.dims.batch == 0) return stream("nothing to compute");
    if (attribute_of_current_device(cudaDevAttrComputeCapabilityMajor) < kLeastCapability) {
      return stream("persistent kernels need compute capability 8.0 or higher");
    }
    const int64_t unit_blocks = work.dims.hidden_size / kUnitsPerBlock;
    const int64_t capacity = device_capacity<T>(cell, work.dims, backward);
    if (unit_blocks > capacity) return stream("the recurrent weights do not fit on the chip");
    const int64_t tiles = (work.dims.batch + kBatchRowsPerTile - 1) / kBatchRowsPerTile;
    const Grid grid{unit_blocks, std::min(tiles, capacity / unit_blocks)};
    return {{Path::kPersistent, grid}, "the recurrent weights stay on the chip for the whole sequence"};
  }
}

template <class T>
int64_t forward_scratch(CellKind cell, const Forward<T>& params, const Plan& plan) {
  if constexpr (kHasPersistent<T>) {
    if (plan.path == Path::kPersistent) return persistent<T>(cell).forward.scratch(params.dims, plan.grid);
  }
  return streamed<T>(cell).forward_scratch(params);
}

template <class T>
int64_t backward_scratch(CellKind cell, const Backward<T>& params, const Plan& plan) {
  if constexpr (kHasPersistent<T>) {
    if (plan.path == Path::kPersistent) return persistent<T>(cell).backward.scratch(params.dims, plan.grid);
  }
  return streamed<T>(cell).backward_scratch(params);
}

template <class T>
void run_forward(CellKind cell, const Forward<T>& params, const Plan& plan, const Queue& queue) {
  if constexpr (kHasPersistent<T>) {
    if (plan.path == Path::kPersistent) return persistent<T>(cell).forward.run(params, plan.grid, queue);
  }
  streamed<T>(cell).forward(params, queue);
}

template <class T>
void run_backward(CellKind cell, const Backward<T>& params, const Plan& plan, const Queue& queue) {
  if constexpr (kHasPersistent<T>) {
    if (plan.path == Path::kPersistent) return persistent<T>(cell).backward.run(params, plan.grid, queue);
  }
  streamed<T>(cell).backward(params, queue);
}

#define FASTRNN_INSTANTIATE(T)                                                          \
  template Choice choose_plan<T>(CellKind, const Workload&, bool);                      \
  template int64_t forward_scratch<T>(CellKind, const Forward<T>&, const Plan&);        \
  template int64_t backward_scratch<T>(CellKind, const Backward<T>&, const Plan&);      \
  template void run_forward<T>(CellKind, const Forward<T>&, const Plan&, const Queue&); \
  template void run_backward<T>(CellKind, const Backward<T>&, const Plan&, const Queue&);

FASTRNN_INSTANTIATE(double)
FASTRNN_INSTANTIATE(float)
FASTRNN_INSTANTIATE(__half)
FASTRNN_INSTANTIATE(__nv_bfloat16)

#undef FASTRNN_INSTANTIATE

}  // namespace fastrnn::cuda
