#include "scheduler.h"

#include <bit>
#include <cstdlib>
#include <map>
#include <sstream>
#include <utility>

namespace fastrnn::emulation {

namespace {

// Turns go to another warp of the block and to another block this rarely: threads that run one after another share
// what is in the caches.
constexpr uint64_t kTurnsOfWarp = 8, kTurnsOfBlock = 32;

// So often may all threads wait for flags and be told to look again without news, before that is a deadlock. Threads
// may look at flags that they need not wait for.
constexpr size_t kRevivals = 1000;
constexpr uint64_t kTimeBetweenLooks = 1'000'000'000;  // in nanoseconds, while nothing else happens
constexpr size_t kStalePollsOfThread = 1000, kStalePolls = 100000;

uint64_t seed_of_environment() {
  const char* const text = std::getenv("FASTRNN_EMULATION_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

// One of the bits that are set.
int any_bit(uint32_t bits, uint64_t random) {
  const int rotation = static_cast<int>(random % kLanes);
  return (std::countr_zero(std::rotr(bits, rotation)) + rotation) % kLanes;
}

const char* what_it_does(const Thread& thread) {
  const uint32_t bit = 1u << thread.lane;
  if (thread.warp->at_block & bit) return "wait at the barrier of their block or cluster in ";
  if (thread.warp->at_meeting & bit) return "wait for their warp in ";
  if (thread.mbarrier) return "wait for an mbarrier in ";
  return thread.flag ? "poll a flag in " : "run after ";
}

}  // namespace

const Coordinates* coordinates = nullptr;
bool kernel_runs = false;

Scheduler& scheduler() {
  static Scheduler* const scheduler = [] {
    auto* const made = new Scheduler;
    made->random.seed(seed_of_environment());
    return made;
  }();
  return *scheduler;
}

void set_seed(uint64_t seed) { scheduler().random.seed(seed); }

std::string describe(Place place) {
  const std::string file = place.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(place.line()) + " (" + place.function_name() + ")";
}

std::string describe(const Thread& thread) {
  std::ostringstream out;
  out << "thread " << thread.thread.x << " of block (" << thread.block.x << ", " << thread.block.y << ")";
  return out.str();
}

void Scheduler::run(std::vector<Block>& blocks, std::vector<Thread>& threads) {
  blocks_ = &blocks;
  threads_ = &threads;
  left_ = threads.size();
  ready_blocks_.clear();
  waiting_for_flags_.clear();
  waiting_for_mbarriers_.clear();
  block_ = nullptr;
  note_news();
  for (Block& block : blocks) {
    for (Warp& warp : block.warps) make_ready(warp);
  }
  if (left_ > 0) caller_.switch_to((running_ = &pick())->fiber);
  coordinates = nullptr;
  if (fault_.empty()) return;
  for (Thread& thread : threads) thread.fiber.abandon();
  throw Fault(std::exchange(fault_, {}));
}

bool Scheduler::runs(const void* address) const {
  return address >= threads_->data() && address < threads_->data() + threads_->size();
}

void Scheduler::mark_ready(Block& block) {
  if (block.ready_warps == 0) {
    block.ready_index = ready_blocks_.size();
    ready_blocks_.push_back(&block);
  }
}

void Scheduler::make_ready(Thread& thread) {
  Block& block = *thread.warp->block;
  mark_ready(block);
  thread.warp->ready |= 1u << thread.lane;
  block.ready_warps |= 1u << (thread.warp - block.warps.data());
}

void Scheduler::make_ready(Warp& warp) {
  Block& block = *warp.block;
  mark_ready(block);
  warp.ready = ~0u;
  block.ready_warps |= 1u << (&warp - block.warps.data());
}

Thread& Scheduler::pick() {
  if (ready_blocks_.empty()) revive();
  uint64_t dice = random.next();
  const auto roll = [&dice](uint64_t sides) {
    const uint64_t rolled = dice % sides;
    dice /= sides;
    return rolled;
  };
  const bool same_block = roll(kTurnsOfBlock) != 0, same_warp = roll(kTurnsOfWarp) != 0;
  if (!same_block || !block_ || !block_->ready_warps) {
    block_ = ready_blocks_[roll(ready_blocks_.size())];
    warp_ = nullptr;
  }
  if (!same_warp || !warp_ || !warp_->ready) warp_ = &block_->warps[any_bit(block_->ready_warps, roll(kLanes))];
  const int lane = any_bit(warp_->ready, roll(kLanes));
  warp_->ready &= ~(1u << lane);
  if (!warp_->ready) block_->ready_warps &= ~(1u << (warp_ - block_->warps.data()));
  if (!block_->ready_warps) {
    ready_blocks_.back()->ready_index = block_->ready_index;
    ready_blocks_[block_->ready_index] = ready_blocks_.back();
    ready_blocks_.pop_back();
  }
  Thread& picked = warp_->threads[lane];
  coordinates = &picked;
  return picked;
}

void Scheduler::suspend() {
  Thread& self = *running_;
  running_ = &pick();
  if (running_ != &self) self.fiber.switch_to(running_->fiber);
}

void Scheduler::yield() {
  make_ready(*running_);
  suspend();
}

void Scheduler::wait_for_flag() {
  waiting_for_flags_.push_back(running_);
  suspend();
}

void Scheduler::wake(const uint32_t* flag) {
  std::erase_if(waiting_for_flags_, [this, flag](Thread* thread) {
    if (thread->flag != flag) return false;
    make_ready(*thread);
    return true;
  });
}

void Scheduler::wait_for(const MBarrier& barrier) {
  waiting_for_mbarriers_.push_back({&barrier, running_});
  suspend();
}

void Scheduler::wake(const MBarrier& barrier) {
  std::erase_if(waiting_for_mbarriers_, [&](const auto& waiting) {
    if (waiting.first != &barrier) return false;
    make_ready(*waiting.second);
    return true;
  });
}

// What is under way arrives when nothing else can happen. A flag may have changed without a release, or a thread may
// have polled one that need not change; who waits for an mbarrier may look at the clock.
void Scheduler::revive() {
  while (ready_blocks_.empty() && deliveries.deliver_one()) {
  }
  if (!ready_blocks_.empty()) return;
  const bool any_looks = !waiting_for_flags_.empty() || !waiting_for_mbarriers_.empty();
  if (!any_looks || ++revivals_ > kRevivals) deadlock();
  time_ += kTimeBetweenLooks;
  for (Thread* thread : waiting_for_flags_) make_ready(*thread);
  waiting_for_flags_.clear();
  for (const auto& [barrier, thread] : waiting_for_mbarriers_) make_ready(*thread);
  waiting_for_mbarriers_.clear();
}

void Scheduler::note_stale_poll() {
  if (++stale_polls_ > kStalePolls + kStalePollsOfThread * threads_->size()) deadlock();
}

void Scheduler::deadlock() {
  struct Group {
    const Thread* first;
    size_t count = 0;
  };
  std::map<std::string, Group> groups;
  for (const Thread& thread : *threads_) {
    if (thread.warp->ended >> thread.lane & 1) continue;
    Group& group = groups.try_emplace(what_it_does(thread) + describe(thread.place), Group{&thread}).first->second;
    ++group.count;
  }
  std::ostringstream out;
  out << "deadlock: nothing that a thread waits for can happen any more";
  for (const auto& [what, group] : groups) {
    out << "\n  " << group.count << " threads, such as " << describe(*group.first) << ", " << what;
  }
  fail(out.str());
}

void Scheduler::end() {
  Fiber& self = running_->fiber;
  note_news();
  kernel_runs = false;
  if (--left_ == 0) self.leave_for(caller_);
  running_ = &pick();
  self.leave_for(running_->fiber);
}

void Scheduler::fail(const std::string& message) {
  if (!coordinates) throw Fault(message);
  fault_ = message;
  kernel_runs = false;
  // From a thread, or from a thread's end that looked for another.
  running_->fiber.leave_for(caller_);
}

}  // namespace fastrnn::emulation
