// What happened before what: the clocks of a launch's threads, and how meetings and flags join them.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "race_clock.h"
#include "scheduler.h"

namespace fastrnn::emulation::race {

class Order {
 public:
  void reset(size_t threads, size_t threads_of_block);

  // What the thread does now, and whether it knows all that `epoch` stands for.
  Epoch now(size_t thread, bool atomic) const { return {thread, states_[thread].time, atomic}; }
  bool knows(size_t thread, Epoch epoch) const {
    return epoch.thread() == thread ? !epoch.under_way() : states_[thread].clock->knows(epoch, threads_of_block_);
  }

  void meet(const Block& block);
  void meet(const Cluster& cluster);
  void meet(const Warp& warp);
  void release(size_t thread, const uint32_t* flag);
  void acquire(size_t thread, const uint32_t* flag);

  // What a thread knew when its block last met goes with what it sends to an mbarrier; who waits for the end of a phase
  // learns all that went with it, and of what arrived, for which arrived() stands.
  void send(size_t thread, size_t barrier);
  void end_phase(size_t barrier);
  void wait(size_t thread, size_t barrier);
  Epoch arrived(size_t barrier) const {
    return {states_.size() + barrier, kStart * (1 + phases_.at(barrier).ended), false};
  }

 private:
  using SharedClock = std::shared_ptr<const Clock>;
  struct State {
    SharedClock clock;
    Time time;
  };
  struct Release {
    SharedClock clock;
    Epoch epoch;
  };

  struct Phases {
    Time ended = 0;  // number
    SharedClock last_sent;
    Clock sent;                               // in the phase that goes on and in those before
    SharedClock completed;                    // in those before
    SharedClock waiter_before, waiter_after;  // the last that waited
  };

  Clock joined(const Thread* threads, size_t count) const;
  void share(const Thread* threads, size_t count, Clock&& clock, Time time);

  std::vector<State> states_;
  std::unordered_map<const uint32_t*, Release> releases_;
  std::unordered_map<size_t, Phases> phases_;
  size_t threads_of_block_ = 0;
};

}  // namespace fastrnn::emulation::race
