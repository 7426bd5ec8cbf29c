// CUDA runtime errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace fastrnn::cuda {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears it; the next call would report it again
  throw CudaError(std::string("fastrnn: CUDA error: ") + cudaGetErrorString(error));
}

}  // namespace fastrnn::cuda
