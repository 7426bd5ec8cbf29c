#include "torch_cuda.h"

// Weak: found in the libraries of a torch that has CUDA, null elsewhere.
extern "C" {
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
__attribute__((weak)) AOTITorchError torch_get_current_cuda_blas_handle(void** ret_handle);
__attribute__((weak)) AOTITorchError aoti_record_function_start(const char* name, IValueMapHandle kwargs,
                                                                const C10IValueHandle* inputs, uint64_t n_inputs,
                                                                AtenRecordFunctionHandle* guard);
__attribute__((weak)) AOTITorchError aoti_record_function_end(AtenRecordFunctionHandle guard);
}

namespace fastrnn::ops {

CudaContext::CudaContext(const Tensor& on, bool allow_tf32) : guard_(std::in_place, on.get_device_index()), queue_{} {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream && torch_get_current_cuda_blas_handle,
                  "fastrnn: this torch has no CUDA");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  queue_.stream = static_cast<cudaStream_t>(stream);
  TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&queue_.blas));
  queue_.allow_tf32 = allow_tf32;
}

ProfilerRange::ProfilerRange(const char* name) {
  if (!aoti_record_function_start) return;
  TORCH_ERROR_CODE_CHECK(aoti_record_function_start(name, nullptr, nullptr, 0, &range_));
}

ProfilerRange::~ProfilerRange() {
  if (range_) aoti_record_function_end(range_);
}

bool host_reads(const Tensor& batch_sizes) { return batch_sizes.is_cpu(); }

}  // namespace fastrnn::ops
