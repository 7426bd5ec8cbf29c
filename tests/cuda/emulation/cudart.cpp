// The part of the CUDA runtime that the kernels' host code calls. The one stream runs what it is given at once.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "device.h"
#include "memory.h"
#include "runtime.h"

namespace fastrnn::emulation {

namespace {

constexpr size_t kSharedWithoutOptIn = 48 << 10;
constexpr size_t kSharedTakenByRuntime = 1 << 10;  // of each block
constexpr int kBlocksPerMultiprocessor = 32;
constexpr int kPortableCluster = 8, kLargestCluster = 16, kLeastCapabilityOfClusters = 9;

std::map<const void*, size_t> shared_opt_ins;                      // of each kernel
std::set<const void*> nonportable_clusters;                        // kernels that may have them
std::set<const void*> host_memory;                                 // that the GPU can write
cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;  // of the calling thread

size_t shared_limit(const void* kernel) {
  const auto found = shared_opt_ins.find(kernel);
  return found == shared_opt_ins.end() ? kSharedWithoutOptIn : std::max(found->second, kSharedWithoutOptIn);
}

void require_gpu(const void* memory, size_t bytes, const char* call) {
  if (bytes > 0 && !is_allocated(memory, bytes)) throw Fault(std::string(call) + " outside the GPU's allocations");
}

}  // namespace

bool is_host_memory(const void* memory) { return host_memory.count(memory); }

Device& device() {
  static Device device;
  return device;
}

int resident_blocks(const void* kernel, int threads, size_t shared_bytes) {
  const Device& d = device();
  if (shared_bytes > shared_limit(kernel)) return 0;
  const size_t by_shared = d.shared_per_multiprocessor / (shared_bytes + kSharedTakenByRuntime);
  const int by_registers = d.registers_per_multiprocessor / (d.registers_per_thread * threads);
  return std::min({static_cast<int>(std::min<size_t>(by_shared, kBlocksPerMultiprocessor)), by_registers,
                   d.threads_per_multiprocessor / threads});
}

int resident_clusters(const void* kernel, int threads, size_t shared_bytes, int cluster) {
  const Device& d = device();
  const bool allowed =
      cluster <= kPortableCluster || (cluster <= kLargestCluster && nonportable_clusters.count(kernel));
  if (d.capability_major < kLeastCapabilityOfClusters || !allowed) return 0;
  const int places = std::min(d.multiprocessors, d.clusters_of_sixteen * kLargestCluster);
  return resident_blocks(kernel, threads, shared_bytes) * (places / cluster);
}

cudaError_t check_launch(const void* kernel, const LaunchShape& shape) {
  if (shape.threads < 1 || shape.threads > 1024 || shape.blocks.x >> 31 || shape.blocks.y >> 16 ||
      shape.blocks.z >> 16 || shape.blocks.x % shape.cluster) {
    return cudaErrorInvalidConfiguration;
  }
  if (shape.shared_bytes > shared_limit(kernel)) return cudaErrorInvalidValue;
  const int resident = resident_blocks(kernel, shape.threads, shape.shared_bytes);
  if (resident == 0) return cudaErrorLaunchOutOfResources;
  size_t capacity = static_cast<size_t>(resident) * static_cast<size_t>(device().multiprocessors);
  if (const int cluster = static_cast<int>(shape.cluster); cluster > 1) {
    const int clusters = resident_clusters(kernel, shape.threads, shape.shared_bytes, cluster);
    if (clusters == 0) return cudaErrorInvalidClusterSize;
    capacity = static_cast<size_t>(clusters) * shape.cluster;
  }
  const bool too_large = shape.cooperative && size_t{shape.blocks.x} * shape.blocks.y * shape.blocks.z > capacity;
  return too_large ? cudaErrorCooperativeLaunchTooLarge : cudaSuccess;
}

}  // namespace fastrnn::emulation

namespace emulation = fastrnn::emulation;

extern "C" {

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  emulation::require_gpu(memory, bytes, "cudaMemsetAsync");
  if (bytes > 0) std::memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidPitchValue;
  for (size_t row = 0; row < height && width > 0; ++row) {
    void* const to_row = static_cast<char*>(to) + row * to_pitch;
    const void* const from_row = static_cast<const char*>(from) + row * from_pitch;
    if (kind != cudaMemcpyDeviceToHost) emulation::require_gpu(to_row, width, "cudaMemcpy to what lies");
    if (kind != cudaMemcpyHostToDevice) emulation::require_gpu(from_row, width, "cudaMemcpy from what lies");
    std::memcpy(to_row, from_row, width);
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) {
  *memory = std::malloc(bytes);
  emulation::host_memory.insert(*memory);
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, emulation::capture_mode);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  const bool captures = emulation::device().captures;
  *status = captures ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  const emulation::Device& device = emulation::device();
  if (device.captures || (device.captures_elsewhere && emulation::capture_mode != cudaStreamCaptureModeRelaxed)) {
    return cudaErrorStreamCaptureUnsupported;
  }
  ++emulation::device().synchronised;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated GPU");
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const emulation::Device& d = emulation::device();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = d.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = d.capability_major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = d.capability_minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(d.shared_per_block_opt_in);
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(d.shared_per_multiprocessor);
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = 1;
      return cudaSuccess;
    default:
      return cudaErrorNotSupported;
  }
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    if (!emulation::device().nonportable_clusters) return cudaErrorNotSupported;
    if (value) emulation::nonportable_clusters.insert(function);
    return cudaSuccess;
  }
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorNotSupported;
  if (value < 0 || static_cast<size_t>(value) > emulation::device().shared_per_block_opt_in) {
    return cudaErrorInvalidValue;
  }
  emulation::shared_opt_ins[function] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function, int threads,
                                                          size_t shared_bytes) {
  *blocks = emulation::resident_blocks(function, threads, shared_bytes);
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function, const cudaLaunchConfig_t* config) {
  const int threads = static_cast<int>(config->blockDim.x);
  const unsigned size = config->attrs[0].val.clusterDim.x;
  *clusters = emulation::resident_clusters(function, threads, config->dynamicSmemBytes, static_cast<int>(size));
  return cudaSuccess;
}

// Nothing is remembered: every error is returned by the call that made it.
cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidPitchValue:
      return "invalid pitch argument";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorInvalidClusterSize:
      return "cluster misconfiguration";
    case cudaErrorCooperativeLaunchTooLarge:
      return "too many blocks in cooperative launch";
    case cudaErrorNotSupported:
      return "operation not supported by the emulation";
    default:
      return "unknown error";
  }
}
}
