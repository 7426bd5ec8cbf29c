// Transaction barriers in shared memory (mbarrier), and asynchronous stores to the shared memory of other blocks of a
// cluster (st.async) that are still under way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace fastrnn::emulation {

struct Block;
struct Thread;

// Made for one arrival: a phase ends when the block has said how many bytes to expect, and they have come.
struct MBarrier {
  const uint64_t* address;
  const Block* block;
  size_t number;  // in the launch
  bool expected = false;
  int64_t missing = 0;  // bytes expected less those that came; below zero when they came first
  uint64_t phases = 0;  // that ended
};

struct Delivery {
  char* to;
  char value[16];
  size_t bytes;
  MBarrier* barrier;
  const void* caller;  // a return address into the kernel
  size_t thread;       // number in the launch
};

// They arrive in any order, as late as they may: when nothing else can go on.
class Deliveries {
 public:
  void clear();
  MBarrier* find(const uint64_t* address) const;  // null if it was not initialised
  MBarrier& make(const uint64_t* address, const Block* block);
  void add(const Delivery& delivery) { under_way_.push_back(delivery); }
  bool any_to(const Block& block) const;
  bool deliver_one();  // false if there is none
  void end_phase_if_complete(MBarrier& barrier);

 private:
  std::unordered_map<const uint64_t*, std::unique_ptr<MBarrier>> barriers_;
  std::vector<Delivery> under_way_;
};

}  // namespace fastrnn::emulation
