// The GPU that the emulated runtime describes, and what fits on it.
#pragma once

#include <driver_types.h>

#include <cstddef>

#include "runtime.h"

namespace fastrnn::emulation {

struct Device {
  int multiprocessors = 132;
  int capability_major = 9, capability_minor = 0;
  size_t shared_per_block_opt_in = 227 << 10;
  size_t shared_per_multiprocessor = 228 << 10;
  int threads_per_multiprocessor = 2048;
  int registers_per_multiprocessor = 64 << 10;
  int clusters_of_sixteen = 8;     // that run at once, of one block to a multiprocessor
  int registers_per_thread = 128;  // what every kernel is taken to need
  bool nonportable_clusters = true;
  bool captures = false;            // the caller, to a graph
  bool captures_elsewhere = false;  // another thread
  int synchronised = 0;             // so often a stream
};

// Tests may change it between launches.
Device& device();

// Blocks of a kernel that fit on a multiprocessor; 0 if it may not have that much shared memory.
int resident_blocks(const void* kernel, int threads, size_t shared_bytes);

// Clusters of a kernel that run at once.
int resident_clusters(const void* kernel, int threads, size_t shared_bytes, int cluster);

// What CUDA says to a launch of that shape.
cudaError_t check_launch(const void* kernel, const LaunchShape& shape);

}  // namespace fastrnn::emulation
