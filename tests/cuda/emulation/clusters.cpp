// How the blocks of a cluster exchange what is in shared memory.
#include "clusters.h"

#include <algorithm>
#include <cstring>

#include "memory.h"
#include "observer.h"
#include "scheduler.h"

namespace fastrnn::emulation {

namespace {

constexpr int64_t kMostMissing = (1 << 20) - 1;  // that an mbarrier can count

bool in_shared(const Block& block, const void* address, size_t bytes) {
  const auto* const from = static_cast<const char*>(address);
  return from >= block.shared && from + bytes <= block.shared + block.shared_bytes;
}

// The caller's place for the emulator's messages.
Thread& begin(Place place) {
  Thread& self = scheduler().running();
  self.flag = nullptr;
  self.place = place;
  return self;
}

MBarrier& own_barrier(const Thread& self, const uint64_t* address, Place place) {
  if (!in_shared(*self.warp->block, address, sizeof(*address))) {
    scheduler().fail("an mbarrier outside the block's shared memory in " + describe(place));
  }
  MBarrier* const found = scheduler().deliveries.find(address);
  if (!found) scheduler().fail("an mbarrier that was not initialised in " + describe(place));
  return *found;
}

}  // namespace

void Deliveries::clear() {
  barriers_.clear();
  under_way_.clear();
}

MBarrier* Deliveries::find(const uint64_t* address) const {
  const auto found = barriers_.find(address);
  return found == barriers_.end() ? nullptr : found->second.get();
}

MBarrier& Deliveries::make(const uint64_t* address, const Block* block) {
  auto& made = barriers_[address];
  made = std::make_unique<MBarrier>(MBarrier{address, block, barriers_.size() - 1});
  return *made;
}

bool Deliveries::any_to(const Block& block) const {
  return std::any_of(under_way_.begin(), under_way_.end(),
                     [&](const Delivery& delivery) { return delivery.barrier->block == &block; });
}

bool Deliveries::deliver_one() {
  if (under_way_.empty()) return false;
  Scheduler& s = scheduler();
  std::swap(under_way_[s.random.next() % under_way_.size()], under_way_.back());
  const Delivery delivery = under_way_.back();
  under_way_.pop_back();
  std::memcpy(delivery.to, delivery.value, delivery.bytes);
  if (observer) observer->delivery_arrived(delivery);
  delivery.barrier->missing -= static_cast<int64_t>(delivery.bytes);
  s.note_news();
  end_phase_if_complete(*delivery.barrier);
  return true;
}

void Deliveries::end_phase_if_complete(MBarrier& barrier) {
  if (!barrier.expected || barrier.missing != 0) return;
  barrier.expected = false;
  ++barrier.phases;
  if (observer) observer->mbarrier_completed(barrier);
  scheduler().wake(barrier);
}

int cluster_rank() {
  const Block& block = *scheduler().running().warp->block;
  return static_cast<int>(&block - block.cluster->blocks);
}

void mbarrier_init(uint64_t* barrier, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = begin(place);
  const Block& block = *self.warp->block;
  if (!in_shared(block, barrier, sizeof(*barrier)) || reinterpret_cast<uintptr_t>(barrier) % sizeof(*barrier)) {
    s.fail("an mbarrier outside the block's shared memory, or misaligned, in " + describe(place));
  }
  if (s.deliveries.find(barrier)) s.fail("an mbarrier initialised twice in " + describe(place));
  MBarrier& made = s.deliveries.make(barrier, &block);
  if (observer) observer->mbarrier_made(self, made, __builtin_return_address(0));
}

void mbarrier_expect(uint64_t* barrier, uint32_t bytes, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = begin(place);
  if (s.random.one_in(2)) s.yield();
  MBarrier& found = own_barrier(self, barrier, place);
  if (found.expected) s.fail("an mbarrier expects a phase while the one before goes on, in " + describe(place));
  found.expected = true;
  found.missing += bytes;
  if (found.missing > kMostMissing) s.fail("more bytes than an mbarrier can expect in " + describe(place));
  if (observer) observer->mbarrier_expected(self, found, __builtin_return_address(0));
  s.note_news();
  s.deliveries.end_phase_if_complete(found);
}

bool mbarrier_try_wait(uint64_t* barrier, uint32_t parity, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = begin(place);
  s.yield();
  const MBarrier& found = own_barrier(self, barrier, place);
  // As on the GPU: the phase of that parity has ended when the one that goes on has the other.
  if (found.phases % 2 == parity) {
    self.mbarrier = &found;
    s.wait_for(found);
  }
  self.mbarrier = nullptr;
  const bool ended = found.phases % 2 != parity;
  if (ended && observer) observer->mbarrier_waited(self, found, __builtin_return_address(0));
  return ended;
}

void store_async(void* shared, uint64_t* barrier, int rank, const void* value, size_t bytes, Place place) {
  const InEmulator scope;
  Scheduler& s = scheduler();
  Thread& self = begin(place);
  const Block& own = *self.warp->block;
  if (rank < 0 || static_cast<size_t>(rank) >= own.cluster->size) {
    s.fail("store_async to a block that is not in the cluster, in " + describe(place));
  }
  const Block& peer = own.cluster->blocks[rank];
  if (!in_shared(own, shared, bytes) || reinterpret_cast<uintptr_t>(shared) % bytes) {
    s.fail("store_async to what lies outside a block's shared memory, or misaligned, in " + describe(place));
  }
  if (peer.ended == peer.thread_count) s.fail("store_async to a block that has ended, in " + describe(place));
  const auto in_peer = [&](void* address) { return peer.shared + (static_cast<char*>(address) - own.shared); };
  MBarrier* const found = s.deliveries.find(reinterpret_cast<uint64_t*>(in_peer(barrier)));
  if (!found) s.fail("store_async to an mbarrier that was not initialised, in " + describe(place));
  Delivery delivery{in_peer(shared), {}, bytes, found, __builtin_return_address(0), self.number};
  std::memcpy(delivery.value, value, bytes);
  if (observer) observer->delivery_begins(self, delivery);
  std::memset(delivery.to, kPoison, bytes);
  s.deliveries.add(delivery);
  if (s.random.one_in(8)) s.deliveries.deliver_one();
}

}  // namespace fastrnn::emulation
