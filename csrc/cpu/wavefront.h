// Calls of which each waits for the one ahead of it: stacked layers, each on one thread. Not for kernel files.
#pragma once

#include <atomic>
#include <exception>
#include <vector>

#include "plan.h"
#include "spin.h"

namespace fastrnn::cpu {

// Runs job(k, i, member) for every part i of every call k, where each call comes to its parts in their order, and to
// none before the call ahead of it is done with that one. A member of the team runs neighbouring calls, so that it
// waits for one other member at most; there are no more members than calls. False if the user interrupted it; what a
// job throws is thrown here, once all members have left.
template <class Job>
bool run_wavefront(int threads, size_t calls, size_t parts, const Job& job) {
  struct alignas(64) Progress {
    std::atomic<size_t> done{0};
  };
  struct Context {
    const Job& job;
    size_t calls, parts;
    std::vector<Progress> progress;
    std::atomic_flag failed;
    std::exception_ptr error;

    // For part i of call k. False if the call ended meanwhile.
    bool wait(Member& member, size_t k, size_t i) const {
      spin_until([&] {
        member.poll(0);
        return progress[k].done.load(std::memory_order_acquire) > i || member.stopped();
      });
      return !member.stopped();
    }
    bool run(Member& member, size_t k, size_t i) {
      try {
        job(k, i, member);
      } catch (...) {
        if (!failed.test_and_set()) error = std::current_exception();
        member.stop();
      }
      if (member.stopped()) return false;
      progress[k].done.store(i + 1, std::memory_order_release);
      return true;
    }
  };
  Context context{job, calls, parts, std::vector<Progress>(calls), {}, {}};
  const auto body = [](void* pointer, Member& member) {
    Context& c = *static_cast<Context*>(pointer);
    Member alone = member.alone();
    const Range mine = share(static_cast<int64_t>(c.calls), member.index, member.count);
    for (size_t i = 0; i < c.parts; ++i) {
      for (auto k = static_cast<size_t>(mine.begin); k < static_cast<size_t>(mine.end); ++k) {
        if ((k > 0 && !c.wait(alone, k - 1, i)) || !c.run(alone, k, i)) return;
      }
    }
    // The others may be far behind, and nobody else hears Ctrl-C.
    if (alone.polls && c.parts > 0) c.wait(alone, c.calls - 1, c.parts - 1);
  };
  const bool finished = run_team(threads, body, &context);
  if (context.error) std::rethrow_exception(context.error);
  return finished;
}

}  // namespace fastrnn::cpu
