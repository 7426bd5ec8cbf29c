// What a kernel asks of the emulated GPU while it runs. Kernels see it through emulated_gpu.h.
#pragma once

#include <driver_types.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>

namespace fastrnn::emulation {

// A line of a kernel. Threads that meet must meet at the same one.
using Place = std::source_location;

// What a kernel did wrong, thrown by the launch.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order in which threads run follows from the seed: the environment variable FASTRNN_EMULATION_SEED, or this.
void set_seed(uint64_t seed);

// Of the thread that runs.
struct Coordinates {
  uint3 thread, block;
  dim3 threads, blocks;
};
extern const Coordinates* coordinates;

char* shared_memory();

void require_full_mask(unsigned mask, Place place);
void meet_block(Place place);
bool meet_block_or(bool value, Place place);  // whether it was true for any thread
void meet_warp(Place place);

// Lanes of a warp meet, each with operands of its own; when all have come, `combine` works on all operands at once.
constexpr int kLanes = 32;
using Combine = void(void* const (&operands)[kLanes]);
void meet_warp_and(Combine* combine, void* operands, Place place);

struct MmaOperands {
  float* c;
  const uint32_t *a, *b;
};
Combine multiply_add_half, multiply_add_bfloat16, multiply_add_tf32;

struct ShuffleOperands {
  uint64_t value;
  int source_lane;
  uint64_t result;
};
Combine shuffle;

void store_release(uint32_t* flag, uint32_t value, Place place);
uint32_t load_relaxed(const uint32_t* flag, Place place);
void fence_acquire();  // of what was seen in flags since the last
// Time passes while nothing can happen but that threads look again.
uint64_t global_time();
void store_to_host(uint64_t* word, uint64_t value, Place place);
void let_others_run();

// Of clusters: blocks that run at once and reach one another's shared memory (clusters.cpp).
int cluster_rank();
void meet_cluster(Place place);
void mbarrier_init(uint64_t* barrier, Place place);
void mbarrier_expect(uint64_t* barrier, uint32_t bytes, Place place);
bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity, Place place);
void store_async(void* shared, uint64_t* barrier, int rank, const void* value, size_t bytes, Place place);

void copy_async(void* shared, const void* global, bool valid, Place place);
void commit_copies();
void wait_for_copies(int pending);

struct LaunchShape {
  dim3 blocks;
  int threads;
  size_t shared_bytes;
  bool cooperative;
  unsigned cluster;   // blocks side by side in x that form one
  bool instrumented;  // the kernel is compiled for the race detector
};

// Runs `body(params)` once for each thread of a launch of `kernel`.
using Body = void(const void* params);
cudaError_t run(const void* kernel, const LaunchShape& shape, Body* body, const void* params);

}  // namespace fastrnn::emulation
