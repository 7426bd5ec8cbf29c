// The configuration of a launch, and how many blocks or clusters of a kernel can be resident on a device.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <tuple>

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

inline int current_device() {
  int device = 0;
  check(cudaGetDevice(&device));
  return device;
}

// What the runtime once said, by question. A plan asks some dozens of questions, whose answers never change, and each
// takes the runtime an estimated microsecond.
template <class... Question>
class Answers {
 public:
  template <class Ask>
  int get(const Ask& ask, const Question&... question) {
    const std::lock_guard lock(mutex_);
    const auto key = std::make_tuple(question...);
    const auto found = known_.find(key);
    return found != known_.end() ? found->second : known_.emplace(key, ask()).first->second;
  }
  void forget() {
    const std::lock_guard lock(mutex_);
    known_.clear();
  }

 private:
  std::mutex mutex_;
  std::map<std::tuple<Question...>, int> known_;
};

struct DeviceAnswers {
  Answers<int, int> attributes;                               // of device, attribute
  Answers<int, const void*, int, int64_t> blocks;             // of device, kernel, threads, shared memory
  Answers<int, const void*, int, int64_t, int64_t> clusters;  // and size

  // For tests that change the device.
  void forget() {
    attributes.forget();
    blocks.forget();
    clusters.forget();
  }
};
inline DeviceAnswers device_answers;

// An attribute of the current device.
inline int device_attribute(cudaDeviceAttr attribute) {
  const int device = current_device();
  return device_answers.attributes.get(
      [&] {
        int value = 0;
        check(cudaDeviceGetAttribute(&value, attribute, device));
        return value;
      },
      device, static_cast<int>(attribute));
}

// See resident_blocks().
inline int ask_resident_blocks(const void* function, int threads, int64_t shared_bytes) {
  const int most = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  if (shared_bytes > most) return 0;
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  int blocks = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, static_cast<size_t>(shared_bytes)));
  return blocks;
}

// How many blocks of a kernel, with that much dynamic shared memory each, fit on a multiprocessor. Raises the kernel's
// limit to all that the device has, since calls in other threads may need more.
template <class Params>
int resident_blocks(void (*kernel)(Params), int threads, int64_t shared_bytes) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  return device_answers.blocks.get([&] { return ask_resident_blocks(function, threads, shared_bytes); },
                                   current_device(), function, threads, shared_bytes);
}

constexpr int64_t kPortableCluster = 8;  // the largest that every device with clusters can run

// See resident_clusters(). A size that the device cannot run is a valid answer: none.
inline int ask_resident_clusters(const void* function, int threads, int64_t shared_bytes, int64_t cluster) {
  if (cluster > kPortableCluster &&
      cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) {
    cudaGetLastError();
    return 0;
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
  if (cudaOccupancyMaxActiveClusters(&clusters, function, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

// How many clusters of such blocks can be resident. Permits the kernel clusters of that size.
template <class Params>
int resident_clusters(void (*kernel)(Params), int threads, int64_t shared_bytes, int64_t cluster) {
  if (resident_blocks(kernel, threads, shared_bytes) == 0) return 0;
  const auto* function = reinterpret_cast<const void*>(kernel);
  return device_answers.clusters.get([&] { return ask_resident_clusters(function, threads, shared_bytes, cluster); },
                                     current_device(), function, threads, shared_bytes, cluster);
}

}  // namespace fastrnn::cuda
