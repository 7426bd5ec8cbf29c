#include "race_detector.h"

#include <unordered_map>
#include <vector>

#include "memory.h"
#include "observer.h"
#include "race_order.h"
#include "race_report.h"
#include "race_shadow.h"

extern "C" const char __executable_start, _end;  // the linker's

namespace fastrnn::emulation::race {

namespace {

class Detector final : public Observer {
 public:
  Detector() { observer = this; }

  void launch_begins(size_t threads, size_t threads_of_block) override {
    order_.reset(threads, threads_of_block);
    shadow_.begin_launch();
    report_ = {};
    arrived_.clear();
    threads_ = threads;
    threads_of_block_ = threads_of_block;
  }
  std::string launch_ends() override { return report_.text(threads_, threads_of_block_); }

  void met(const Block& block) override { order_.meet(block); }
  void met(const Warp& warp) override { order_.meet(warp); }
  void met(const Cluster& cluster) override { order_.meet(cluster); }

  void released(const Thread& thread, const uint32_t* flag, const void* caller) override {
    write(flag, sizeof(*flag), {order_.now(thread.number, true), code_of(caller)});
    order_.release(thread.number, flag);
  }
  void polled(const Thread& thread, const uint32_t* flag, const void* caller) override {
    read(flag, sizeof(*flag), {order_.now(thread.number, true), code_of(caller)});
  }
  void acquired(const Thread& thread, const uint32_t* flag) override { order_.acquire(thread.number, flag); }

  void mbarrier_made(const Thread& thread, const MBarrier& barrier, const void* caller) override {
    write(barrier.address, sizeof(*barrier.address), {order_.now(thread.number, false), code_of(caller)});
  }
  void mbarrier_expected(const Thread& thread, const MBarrier& barrier, const void* caller) override {
    use(barrier, thread.number, caller);
    order_.send(thread.number, barrier.number);
  }
  void mbarrier_waited(const Thread& thread, const MBarrier& barrier, const void* caller) override {
    use(barrier, thread.number, caller);
    order_.wait(thread.number, barrier.number);
  }
  void mbarrier_completed(const MBarrier& barrier) override {
    const Epoch now = order_.arrived(barrier.number);
    for (const Delivery& delivery : arrived_[barrier.number])
      end_write(delivery.to, delivery.bytes, delivery.thread, now);
    arrived_[barrier.number].clear();
    order_.end_phase(barrier.number);
  }

  void delivery_begins(const Thread& thread, const Delivery& delivery) override {
    use(*delivery.barrier, thread.number, delivery.caller);
    write(delivery.to, delivery.bytes, {Epoch(thread.number, kUnderWay, false), code_of(delivery.caller)});
    order_.send(thread.number, delivery.barrier->number);
  }
  void delivery_arrived(const Delivery& delivery) override { arrived_[delivery.barrier->number].push_back(delivery); }

  void copy_begins(const Thread& thread, const Copy& copy) override {
    const Access under_way{Epoch(thread.number, kUnderWay, false), code_of(copy.caller)};
    write(copy.shared, kCopyBytes, under_way);
    if (copy.valid) read(copy.global, kCopyBytes, under_way);
  }
  void copy_ends(const Thread& thread, const Copy& copy) override;

  void accessed(const Thread& thread, const void* address, size_t bytes, bool writes, const void* caller);

 private:
  void read(const void* address, size_t bytes, const Access& access);
  void write(const void* address, size_t bytes, const Access& access);
  void use(const MBarrier& barrier, size_t thread, const void* caller) {
    read(barrier.address, sizeof(*barrier.address), {order_.now(thread, true), code_of(caller)});
  }
  // A write of that thread under way ends at `now`.
  void end_write(const void* address, size_t bytes, size_t thread, Epoch now);
  bool conflict(const Access& before, const Access& access) const {
    return before.epoch && !(before.epoch.atomic() && access.epoch.atomic()) &&
           !order_.knows(access.epoch.thread(), before.epoch);
  }

  Order order_;
  Shadow shadow_;
  Report report_;
  std::unordered_map<size_t, std::vector<Delivery>> arrived_;  // at each mbarrier, in the phase that goes on
  size_t threads_ = 0, threads_of_block_ = 0;
} detector;

// Calls `visit(address)` for each granule.
template <class Visit>
void for_granules(const void* address, size_t bytes, const Visit& visit) {
  const auto start = reinterpret_cast<uintptr_t>(address) / kGranule * kGranule;
  for (uintptr_t at = start; at < reinterpret_cast<uintptr_t>(address) + bytes; at += kGranule) {
    visit(reinterpret_cast<const char*>(at));
  }
}

void Detector::read(const void* address, size_t bytes, const Access& access) {
  for_granules(address, bytes, [&](const char* at) {
    Cell& cell = shadow_.cell(at);
    if (const Access before{cell.write, cell.write_code}; conflict(before, access)) {
      report_.add({Kind::kRace, at, access, false, before, true});
    }
    if (!cell.write && !is_global_memory(at)) report_.add({Kind::kUninitialised, at, access, false, {}, false});
    shadow_.add_read(cell, access, [&](Epoch old) { return order_.knows(access.epoch.thread(), old); });
  });
}

void Detector::write(const void* address, size_t bytes, const Access& access) {
  for_granules(address, bytes, [&](const char* at) {
    Cell& cell = shadow_.cell(at);
    if (const Access before{cell.write, cell.write_code}; conflict(before, access)) {
      report_.add({Kind::kRace, at, access, true, before, true});
    }
    shadow_.visit_reads(cell, [&](const Access& before) {
      if (conflict(before, access)) report_.add({Kind::kRace, at, access, true, before, false});
    });
    shadow_.forget_reads(cell);
    cell.write = access.epoch;
    cell.write_code = access.code;
  });
}

void Detector::end_write(const void* address, size_t bytes, size_t thread, Epoch now) {
  const Epoch begun(thread, kUnderWay, false);
  for_granules(address, bytes, [&](const char* at) {
    Cell& cell = shadow_.cell(at);
    if (cell.write == begun) cell.write = now;
  });
}

void Detector::copy_ends(const Thread& thread, const Copy& copy) {
  const Epoch now = order_.now(thread.number, false);
  end_write(copy.shared, kCopyBytes, thread.number, now);
  if (!copy.valid) return;
  for_granules(copy.global, kCopyBytes, [&](const char* at) { shadow_.end_read(shadow_.cell(at), now); });
}

void Detector::accessed(const Thread& thread, const void* address, size_t bytes, bool writes, const void* caller) {
  const Access access{order_.now(thread.number, false), code_of(caller)};
  const Block& block = *thread.warp->block;
  const auto* const from = static_cast<const char*>(address);
  const bool in_shared = from >= block.shared && from + bytes <= block.shared + block.shared_bytes;
  if (in_shared || is_allocated(address, bytes)) {
    writes ? write(address, bytes, access) : read(address, bytes, access);
    return;
  }
  const bool constant = address >= &__executable_start && address < &_end;
  if (!constant && !scheduler().runs(address)) report_.add({Kind::kNotItsOwn, address, access, writes, {}, false});
}

}  // namespace

void accessed(const void* address, size_t bytes, bool writes, const void* caller) {
  if (!kernel_runs || Fiber::is_stack(address)) return;
  const InEmulator scope;
  detector.accessed(scheduler().running(), address, bytes, writes, caller);
}

}  // namespace fastrnn::emulation::race
