// Numbers that the host knows, for kernels to read.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fastrnn::cuda {

// They travel as arguments of kernels, not from the host's memory: nobody has to keep that, and a CUDA graph that
// captures the call has the numbers in it.
void upload(int64_t* to, const int64_t* values, int64_t count, cudaStream_t stream);

}  // namespace fastrnn::cuda
