// The threads of a launch, and whose turn it is.
#pragma once

#include <string>
#include <vector>

#include "clusters.h"
#include "copies.h"
#include "fiber.h"
#include "runtime.h"

namespace fastrnn::emulation {

struct Block;
struct Warp;

struct Thread : Coordinates {
  Thread(const Coordinates& coordinates, size_t stack, void (*entry)(), Warp* warp, int lane, size_t number)
      : Coordinates(coordinates), fiber(stack, entry), warp(warp), lane(lane), number(number) {}

  Fiber fiber;
  Warp* warp;
  int lane;
  size_t number;                   // in the launch
  Place place{};                   // where it waits, or waited last
  const uint32_t* flag = nullptr;  // which it polled last, if it has done nothing else since, and what it saw
  uint32_t seen = 0;
  std::vector<const uint32_t*> unfenced;  // flags that it looked at since it last fenced
  const MBarrier* mbarrier = nullptr;     // that it waits for
  CopyQueue copies;
};

struct Warp {
  Block* block;
  Thread* threads;
  uint32_t ready = ~0u;     // lanes that could run but do not
  uint32_t at_meeting = 0;  // lanes that wait in meet_warp...
  uint32_t at_block = 0;    // ... and in meet_block
  uint32_t ended = 0;
  Combine* combine = nullptr;  // what the meeting is for
  void* operands[kLanes];
};

// Blocks that run at once, side by side in the launch.
struct Cluster {
  Block* blocks;
  size_t size;
  size_t arrived = 0;       // threads that wait at the cluster's barrier, and ...
  Thread* first = nullptr;  // ... which of them came first
};

struct Block {
  size_t number;  // in the launch
  Cluster* cluster;
  std::vector<Warp> warps;
  Thread* threads;
  size_t thread_count;
  char* shared;
  size_t shared_bytes;

  uint32_t ready_warps = 0;
  size_t ready_index = 0;   // among the scheduler's ready blocks
  size_t arrived = 0;       // threads that wait at the barrier, and ...
  Thread* first = nullptr;  // ... which of them came first
  bool any = false;         // of their values in meet_block_or, and ...
  bool last_any = false;    // ... those when they last met
  size_t ended = 0;
};

// xorshift64*: the order of everything follows from its seed.
class Random {
 public:
  void seed(uint64_t seed) { state_ = (seed + 1) * 0x9e3779b97f4a7c15ULL | 1; }
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dULL >> 16;
  }
  bool one_in(uint64_t count) { return next() % count == 0; }

 private:
  uint64_t state_ = 1;
};

class Scheduler {
 public:
  Random random;
  Deliveries deliveries;

  // Runs all threads of these blocks, which are ready, to their ends. Throws the fault that stopped them.
  void run(std::vector<Block>& blocks, std::vector<Thread>& threads);

  Thread& running() const { return *running_; }
  bool runs(const void* address) const;  // whether that is part of a thread's description

  void make_ready(Thread& thread);
  void make_ready(Warp& warp);
  void suspend();        // the running thread waits until something makes it ready
  void yield();          // it could go on, but others may run first
  void wait_for_flag();  // it waits until its flag changes
  void wait_for(const MBarrier& barrier);
  void wake(const MBarrier& barrier);
  void wake(const uint32_t* flag);
  void note_news() { revivals_ = stale_polls_ = 0; }  // something happened that a thread may have waited for
  void note_stale_poll();
  uint64_t time() const { return time_; }
  [[noreturn]] void end();
  [[noreturn]] void fail(const std::string& message);

 private:
  void mark_ready(Block& block);
  Thread& pick();
  void revive();
  [[noreturn]] void deadlock();

  Fiber caller_ = Fiber::of_caller();
  std::vector<Block>* blocks_ = nullptr;
  std::vector<Thread>* threads_ = nullptr;
  size_t left_ = 0;  // threads that have not ended
  Thread* running_ = nullptr;
  Block* block_ = nullptr;  // whose threads had the last turn
  Warp* warp_ = nullptr;
  std::vector<Block*> ready_blocks_;
  std::vector<Thread*> waiting_for_flags_;
  std::vector<std::pair<const MBarrier*, Thread*>> waiting_for_mbarriers_;
  size_t revivals_ = 0, stale_polls_ = 0;  // since the last news
  uint64_t time_ = 1;                      // nanoseconds
  std::string fault_;
};

Scheduler& scheduler();

// Whether a kernel's own code runs, and not the emulator's on behalf of it.
extern bool kernel_runs;
struct InEmulator {
  InEmulator() { kernel_runs = false; }
  ~InEmulator() { kernel_runs = true; }
};

std::string describe(const Thread& thread);
std::string describe(Place place);
inline bool same(Place a, Place b) { return a.line() == b.line() && a.column() == b.column(); }

}  // namespace fastrnn::emulation
