// A launch: blocks, their shared memory, their threads.
#include <algorithm>
#include <bit>
#include <numeric>

#include "device.h"
#include "memory.h"
#include "observer.h"
#include "scheduler.h"

namespace fastrnn::emulation {

Observer* observer = nullptr;

namespace {

// Blocks of a launch that is not cooperative may not wait for one another: they run a few at a time.
constexpr size_t kThreadsAtOnce = 8192;

struct Running {
  Body* body;
  const void* params;
} running;

[[noreturn]] void run_thread() {
  Fiber::arrive();
  kernel_runs = true;
  running.body(running.params);
  kernel_runs = false;
  Scheduler& s = scheduler();
  Thread& self = s.running();
  Warp& warp = *self.warp;
  Block& block = *warp.block;
  if (block.arrived > 0 || warp.at_meeting) {
    s.fail("divergent: " + describe(self) + " ended while others wait for it in " +
           describe((block.arrived > 0 ? *block.first : warp.threads[std::countr_zero(warp.at_meeting)]).place));
  }
  if (!self.copies.empty()) s.fail(describe(self) + " ended without waiting for its copies");
  warp.ended |= 1u << self.lane;
  ++block.ended;
  if (block.ended == block.thread_count && s.deliveries.any_to(block)) {
    s.fail("the block of " + describe(self) + " ended while stores to it were under way");
  }
  s.end();
}

// Clusters come in any order, the blocks of one side by side.
std::vector<size_t> shuffled_blocks(size_t count, size_t cluster) {
  std::vector<size_t> clusters(count / cluster), order;
  std::iota(clusters.begin(), clusters.end(), size_t{0});
  for (size_t left = clusters.size(); left > 1; --left) {
    std::swap(clusters[left - 1], clusters[scheduler().random.next() % left]);
  }
  for (const size_t each : clusters) {
    for (size_t rank = 0; rank < cluster; ++rank) order.push_back(each * cluster + rank);
  }
  return order;
}

// Blocks with these numbers, and their threads.
class Wave {
 public:
  Wave(const LaunchShape& shape, const size_t* numbers, size_t count)
      : blocks_(count), clusters_(count / shape.cluster) {
    const auto threads = static_cast<size_t>(shape.threads);
    threads_.reserve(count * threads);
    for (size_t slot = 0; slot < count; ++slot) {
      Block& block = blocks_[slot];
      block.number = numbers[slot];
      block.cluster = &clusters_[slot / shape.cluster];
      if (slot % shape.cluster == 0) *block.cluster = {&block, shape.cluster};
      block.threads = threads_.data() + threads_.size();
      block.thread_count = threads;
      block.shared = fresh_shared_memory(slot, shape.shared_bytes);
      block.shared_bytes = shape.shared_bytes;
      block.warps.resize(threads / kLanes);
      add_threads(block, shape);
    }
  }

  void run() {
    scheduler().deliveries.clear();
    scheduler().run(blocks_, threads_);
  }

 private:
  void add_threads(Block& block, const LaunchShape& shape) {
    const auto number = static_cast<unsigned>(block.number);
    const unsigned row = number / shape.blocks.x;
    const uint3 place{number % shape.blocks.x, row % shape.blocks.y, row / shape.blocks.y};
    const Coordinates of_block{{}, place, block.thread_count, shape.blocks};
    for (size_t i = 0; i < block.thread_count; ++i) {
      Warp& warp = block.warps[i / kLanes];
      const int lane = static_cast<int>(i % kLanes);
      threads_.emplace_back(of_block, threads_.size(), run_thread, &warp, lane, block.number * block.thread_count + i);
      threads_.back().thread.x = static_cast<unsigned>(i);
      if (lane == 0) warp.block = &block, warp.threads = &threads_.back();
    }
  }

  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<Thread> threads_;
};

}  // namespace

char* shared_memory() { return scheduler().running().warp->block->shared; }

cudaError_t run(const void* kernel, const LaunchShape& shape, Body* body, const void* params) {
  const cudaError_t error = check_launch(kernel, shape);
  if (error != cudaSuccess) return error;
  if (shape.threads % kLanes) throw Fault("a launch of blocks that are no whole number of warps");
  if (observer && !shape.instrumented)
    throw Fault("a kernel that the race detector cannot see: it was compiled as host code");
  const size_t blocks = size_t{shape.blocks.x} * shape.blocks.y * shape.blocks.z;
  const std::vector<size_t> order = shuffled_blocks(blocks, shape.cluster);
  const size_t threads = static_cast<size_t>(shape.threads);
  const size_t clusters_at_once = std::max<size_t>(1, kThreadsAtOnce / (threads * shape.cluster));
  const size_t at_once = shape.cooperative ? blocks : clusters_at_once * shape.cluster;
  running = {body, params};
  if (observer) observer->launch_begins(blocks * threads, threads);
  std::string wrong;
  try {
    for (size_t first = 0; first < blocks; first += at_once) {
      Wave(shape, order.data() + first, std::min(at_once, blocks - first)).run();
    }
  } catch (const Fault& fault) {
    wrong = fault.what();
  }
  if (const std::string found = observer ? observer->launch_ends() : ""; !found.empty()) {
    wrong += (wrong.empty() ? "" : "\n") + found;
  }
  if (!wrong.empty()) throw Fault("kernel on the emulated GPU: " + wrong);
  return cudaSuccess;
}

}  // namespace fastrnn::emulation
