// The part of fastrnn._C that only a build with CUDA has.
#include <cuda_runtime_api.h>

#include "ops/cuda_device.h"
#include "python.h"

namespace fastrnn {

namespace {

std::string architecture() {
  int device = 0, major = 0, minor = 0;
  cuda::check(cudaGetDevice(&device));
  cuda::check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

template <class T>
py::dict plan(CellKind cell, const cuda::Workload& work, bool backward) {
  const cuda::Choice choice = cuda::choose_plan<T>(cell, work, backward);
  py::dict out;
  out["path"] = cuda::name_of(choice.plan.path);
  out["isa"] = architecture();
  const int64_t units = choice.plan.units(work.dims);
  out["tile"] = units ? std::to_string(cuda::kBatchRowsPerTile) + "x" + std::to_string(units) : "";
  out["threads"] = cuda::kThreadsPerBlock;
  out["reason"] = choice.reason;
  return out;
}

py::dict plan_cuda(const std::string& cell_name, const std::string& dtype, int64_t steps, int64_t batch,
                   int64_t hidden_size, int64_t recurrent_size, int64_t layers, int64_t directions, bool dense,
                   bool projected, bool backward, bool allow_tf32, bool extended, int device) {
  const torch::stable::accelerator::DeviceGuard guard(device);
  const CellKind cell = cell_named(cell_name);
  const cuda::Workload work{
      steps, {batch, hidden_size, recurrent_size, projected}, layers, directions, dense, allow_tf32, extended};
  if (dtype == "float64") return plan<double>(cell, work, backward);
  if (dtype == "float32") return plan<float>(cell, work, backward);
  if (dtype == "float16") return plan<__half>(cell, work, backward);
  if (dtype == "bfloat16") return plan<__nv_bfloat16>(cell, work, backward);
  throw std::invalid_argument("no CUDA kernels for dtype '" + dtype + "'");
}

}  // namespace

void bind_cuda(py::module_& m) {
  m.def("plan_cuda", &plan_cuda, py::kw_only(), py::arg("cell"), py::arg("dtype"), py::arg("steps"), py::arg("batch"),
        py::arg("hidden_size"), py::arg("recurrent_size"), py::arg("layers"), py::arg("directions"), py::arg("dense"),
        py::arg("projected"), py::arg("backward"), py::arg("allow_tf32"), py::arg("extended") = false,
        py::arg("device"));
}

}  // namespace fastrnn
