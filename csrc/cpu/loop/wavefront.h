// A wavefront of calls, each of which depends on the one ahead of it: stacked layers, each on one thread. Not for
// kernel files.
#pragma once

#include <atomic>
#include <exception>
#include <vector>

#include "../team/spin.h"
#include "work_slice.h"

namespace fastrnn::cpu {

// Runs job(k, i, worker) for every sub-chunk i of every call k. Each call processes its sub-chunks in order, and none
// before the call ahead of it has finished the same sub-chunk. A worker runs adjacent calls, so that it waits for at
// most one other worker; there are no more workers than calls. False if the user interrupted it; an exception thrown by
// a job is rethrown here, once all workers have left.
template <class Job>
bool run_wavefront(int threads, size_t calls, size_t sub_chunks, const Job& job) {
  struct alignas(64) Progress {
    std::atomic<size_t> done{0};
  };
  struct Context {
    const Job& job;
    size_t calls, sub_chunks;
    std::vector<Progress> progress;
    std::atomic_flag failed;
    std::exception_ptr error;

    // Waits for sub-chunk i of call k. False if the wavefront was stopped meanwhile.
    bool wait(Worker& worker, size_t k, size_t i) const {
      spin_until([&] {
        worker.poll(0);
        return progress[k].done.load(std::memory_order_acquire) > i || worker.stopped();
      });
      return !worker.stopped();
    }
    bool run(Worker& worker, size_t k, size_t i) {
      try {
        job(k, i, worker);
      } catch (...) {
        if (!failed.test_and_set()) error = std::current_exception();
        worker.stop();
      }
      if (worker.stopped()) return false;
      progress[k].done.store(i + 1, std::memory_order_release);
      return true;
    }
  };
  Context context{job, calls, sub_chunks, std::vector<Progress>(calls), {}, {}};
  const auto body = [](void* pointer, Worker& worker) {
    Context& c = *static_cast<Context*>(pointer);
    Worker alone = worker.alone();
    const Range mine = share(static_cast<int64_t>(c.calls), worker.index, worker.count);
    for (size_t i = 0; i < c.sub_chunks; ++i) {
      for (auto k = static_cast<size_t>(mine.begin); k < static_cast<size_t>(mine.end); ++k) {
        if ((k > 0 && !c.wait(alone, k - 1, i)) || !c.run(alone, k, i)) return;
      }
    }
    // The other workers may be far behind, and only this one polls for Ctrl-C.
    if (alone.polls && c.sub_chunks > 0) c.wait(alone, c.calls - 1, c.sub_chunks - 1);
  };
  const bool finished = run_team(threads, body, &context);
  if (context.error) std::rethrow_exception(context.error);
  return finished;
}

}  // namespace fastrnn::cpu
