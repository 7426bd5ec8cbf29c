// How blocks meet, and how global memory comes to shared memory.
#include <cstring>

#include "memory.h"
#include "observer.h"
#include "scheduler.h"

namespace fastrnn::emulation {

namespace {

void require_flag(const uint32_t* flag, Place place) {
  if (!is_global_memory(flag)) scheduler().fail("a flag outside global memory in " + describe(place));
  if (reinterpret_cast<uintptr_t>(flag) % sizeof(*flag)) scheduler().fail("a misaligned flag in " + describe(place));
}

// The compiler must neither keep a flag in a register nor move other accesses across.
uint32_t load(const uint32_t* flag) { return __atomic_load_n(flag, __ATOMIC_SEQ_CST); }

}  // namespace

void store_release(uint32_t* flag, uint32_t value, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = s.running();
  require_flag(flag, place);
  self.flag = nullptr;
  self.place = place;
  if (s.random.one_in(2)) s.yield();
  __atomic_store_n(flag, value, __ATOMIC_SEQ_CST);
  if (observer) observer->released(self, flag, __builtin_return_address(0));
  s.note_news();
  s.wake(flag);
  if (s.random.one_in(2)) s.yield();
}

uint32_t load_relaxed(const uint32_t* flag, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = s.running();
  require_flag(flag, place);
  self.place = place;
  s.yield();
  // Two looks in a row that see the same mean that the thread waits for a change.
  if (self.flag == flag && self.seen == load(flag)) s.wait_for_flag();
  const uint32_t value = load(flag);
  if (self.flag == flag && self.seen != value) {
    s.note_news();
  } else {
    s.note_stale_poll();
  }
  self.flag = flag;
  self.seen = value;
  if (self.unfenced.empty() || self.unfenced.back() != flag) self.unfenced.push_back(flag);
  if (observer) observer->polled(self, flag, __builtin_return_address(0));
  return value;
}

void fence_acquire() {
  const InEmulator scope;
  Thread& self = scheduler().running();
  for (const uint32_t* flag : self.unfenced) {
    if (observer) observer->acquired(self, flag);
  }
  self.unfenced.clear();
}

uint64_t global_time() { return scheduler().time(); }

void store_to_host(uint64_t* word, uint64_t value, Place place) {
  const InEmulator scope;
  if (!is_host_memory(word)) scheduler().fail("a store to what is not the host's, in " + describe(place));
  __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

void let_others_run() {
  const InEmulator scope;
  Scheduler& s = scheduler();
  // Who asks again and again is never out of work, and what is under way would not arrive before all are.
  if (s.random.one_in(64)) s.deliveries.deliver_one();
  s.yield();
}

void copy_async(void* shared, const void* global, bool valid, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = s.running();
  const Block& block = *self.warp->block;
  const Copy copy{static_cast<char*>(shared), static_cast<const char*>(global), valid, __builtin_return_address(0)};
  if (reinterpret_cast<uintptr_t>(shared) % kCopyBytes || reinterpret_cast<uintptr_t>(global) % kCopyBytes) {
    s.fail("copy_async of misaligned addresses in " + describe(place));
  }
  if (copy.shared < block.shared || copy.shared + kCopyBytes > block.shared + block.shared_bytes) {
    s.fail("copy_async to what lies outside the block's shared memory in " + describe(place));
  }
  if (!is_allocated(global, valid ? kCopyBytes : 1)) {
    s.fail("copy_async from what lies outside the GPU's allocations in " + describe(place));
  }
  self.flag = nullptr;
  if (observer) observer->copy_begins(self, copy);
  std::memset(shared, kPoison, kCopyBytes);
  self.copies.add(copy);
}

void commit_copies() {
  const InEmulator scope;
  scheduler().running().copies.close_group();
}

void wait_for_copies(int pending) {
  const InEmulator scope;
  Thread& self = scheduler().running();
  self.flag = nullptr;
  Copy copy;
  while (self.copies.take(static_cast<size_t>(pending), copy)) {
    if (copy.valid) {
      std::memcpy(copy.shared, copy.global, kCopyBytes);
    } else {
      std::memset(copy.shared, 0, kCopyBytes);
    }
    if (observer) observer->copy_ends(self, copy);
  }
}

}  // namespace fastrnn::emulation
