// Uploads numbers from the host, for kernels to read.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastrnn::cuda {

// They are passed as kernel arguments rather than copied from host memory: nobody has to keep that memory alive, and a
// CUDA graph that captures the call contains the numbers.
void upload(int64_t* to, const int64_t* values, int64_t count, cudaStream_t stream);

}  // namespace fastrnn::cuda
