#include "upload.h"

#include <algorithm>

#include "gpu.cuh"

namespace fastrnn::cuda {

namespace {

constexpr int64_t kMost = 500;  // fits the 4 KiB limit on a kernel's arguments

struct Upload {
  int64_t* to;
  int64_t count;
  int64_t values[kMost];
};

__global__ void upload_values(const __grid_constant__ Upload p) {
  for (int64_t i = threadIdx.x; i < p.count; i += blockDim.x) p.to[i] = p.values[i];
}

}  // namespace

void upload(int64_t* to, const int64_t* values, int64_t count, cudaStream_t stream) {
  for (int64_t first = 0; first < count; first += kMost) {
    Upload part{to + first, std::min(kMost, count - first), {}};
    std::copy_n(values + first, part.count, part.values);
    launch(upload_values, {1, 1, 128, 0, false}, part, stream);
  }
}

}  // namespace fastrnn::cuda
