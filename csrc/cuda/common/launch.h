// The configuration of a launch, and how many blocks or clusters of a kernel can be resident on a device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "error.h"

namespace fastrnn::cuda {

struct Launch {
  int64_t blocks_x, blocks_y;
  int threads;
  int64_t shared_bytes;
  bool cooperative;  // all blocks are co-resident, or the launch fails
  int64_t blocks_z = 1;
  int64_t cluster = 1;  // adjacent blocks in x that share a cluster

  bool empty() const { return blocks_x * blocks_y * blocks_z == 0; }
  dim3 blocks() const {
    return {static_cast<unsigned>(blocks_x), static_cast<unsigned>(blocks_y), static_cast<unsigned>(blocks_z)};
  }
};

// An attribute of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&value, attribute, device));
  return value;
}

// How many blocks of a kernel, with that much dynamic shared memory each, fit on a multiprocessor. Raises the kernel's
// limit to all that the device has, since calls in other threads may need more.
template <class Params>
int resident_blocks(void (*kernel)(Params), int threads, int64_t shared_bytes) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (shared_bytes > most) return 0;
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, static_cast<size_t>(shared_bytes)));
  return blocks;
}

constexpr int64_t kPortableCluster = 8;  // the largest that every device with clusters can run

// How many clusters of such blocks can be resident. Permits the kernel clusters of that size.
template <class Params>
int resident_clusters(void (*kernel)(Params), int threads, int64_t shared_bytes, int64_t cluster) {
  if (resident_blocks(kernel, threads, shared_bytes) == 0) return 0;
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (cluster > kPortableCluster) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  // A size that the device cannot run is a valid answer: none.
  if (cudaOccupancyMaxActiveClusters(&clusters, function, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

}  // namespace fastrnn::cuda
