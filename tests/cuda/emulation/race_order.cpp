#include "race_order.h"

namespace fastrnn::emulation::race {

namespace {

Time next_or_fail(Time time, Time event) {
  const Time advanced = next(time, event);
  if (advanced == 0) scheduler().fail("more barriers or releases in a launch than the race detector can count");
  return advanced;
}

}  // namespace

void Order::reset(size_t threads, size_t threads_of_block) {
  if (threads > Epoch::kMaxThreads) throw Fault("more threads in a launch than the race detector can name");
  states_.assign(threads, {std::make_shared<const Clock>(), kStart});
  releases_.clear();
  phases_.clear();
  threads_of_block_ = threads_of_block;
}

Clock Order::joined(const Thread* threads, size_t count) const {
  const Clock* last = states_[threads[0].number].clock.get();
  Clock clock = *last;
  for (size_t i = 1; i < count; ++i) {
    const Clock* const other = states_[threads[i].number].clock.get();
    if (other != last) clock.join(*other, threads_of_block_);
    last = other;
  }
  return clock;
}

void Order::share(const Thread* threads, size_t count, Clock&& clock, Time time) {
  clock.tidy(threads_of_block_);
  const auto shared = std::make_shared<const Clock>(std::move(clock));
  for (size_t i = 0; i < count; ++i) states_[threads[i].number] = {shared, time};
}

void Order::meet(const Block& block) {
  Clock clock = joined(block.threads, block.thread_count);
  const Time time = next_or_fail(states_[block.threads[0].number].time, kBarrier);
  clock.blocks.raise(block.number, time);
  share(block.threads, block.thread_count, std::move(clock), time);
}

void Order::meet(const Cluster& cluster) {
  Clock clock;
  for (size_t i = 0; i < cluster.size; ++i) {
    const Block& block = cluster.blocks[i];
    clock.join(joined(block.threads, block.thread_count), threads_of_block_);
    clock.blocks.raise(block.number, next_or_fail(states_[block.threads[0].number].time, kBarrier));
  }
  clock.tidy(threads_of_block_);
  for (size_t i = 0; i < cluster.size; ++i) {
    const Block& block = cluster.blocks[i];
    share(block.threads, block.thread_count, Clock(clock), clock.blocks.get(block.number));
  }
}

void Order::meet(const Warp& warp) {
  Clock clock = joined(warp.threads, kLanes);
  const size_t number = warp.threads[0].number;
  const Time time = next_or_fail(states_[number].time, kWarpMeeting);
  clock.warps.raise(number / kLanes, time);
  share(warp.threads, kLanes, std::move(clock), time);
}

void Order::release(size_t thread, const uint32_t* flag) {
  State& state = states_[thread];
  Clock clock = *state.clock;
  const Epoch epoch = now(thread, true);
  state.time = next_or_fail(state.time, kRelease);
  clock.threads.raise(thread, state.time);
  releases_[flag] = {std::make_shared<const Clock>(std::move(clock)), epoch};
}

// A load that sees a flag's latest release learns all that the releasing thread knew. Who knows of the release already
// has learned that.
void Order::acquire(size_t thread, const uint32_t* flag) {
  const auto found = releases_.find(flag);
  if (found == releases_.end() || knows(thread, found->second.epoch)) return;
  Clock clock = *states_[thread].clock;
  clock.join(*found->second.clock, threads_of_block_);
  states_[thread].clock = std::make_shared<const Clock>(std::move(clock));
}

void Order::send(size_t thread, size_t barrier) {
  Phases& phases = phases_[barrier];
  const SharedClock& clock = states_[thread].clock;
  if (clock == phases.last_sent) return;
  phases.last_sent = clock;
  phases.sent.join(*clock, threads_of_block_);
}

void Order::end_phase(size_t barrier) {
  Phases& phases = phases_[barrier];
  const Epoch epoch = arrived(barrier);
  phases.sent.threads.raise(epoch.thread(), epoch.time() + kRelease);
  phases.completed = std::make_shared<const Clock>(phases.sent);
  phases.waiter_before = nullptr;
  ++phases.ended;
}

void Order::wait(size_t thread, size_t barrier) {
  Phases& phases = phases_[barrier];
  if (!phases.completed) return;
  SharedClock& own = states_[thread].clock;
  if (own != phases.waiter_before) {
    Clock clock = *own;
    clock.join(*phases.completed, threads_of_block_);
    phases.waiter_before = own;
    phases.waiter_after = std::make_shared<const Clock>(std::move(clock));
  }
  own = phases.waiter_after;
}

}  // namespace fastrnn::emulation::race
