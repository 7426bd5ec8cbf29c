// A team of threads that runs one whole sequence: started once a call, meeting at a barrier once or twice a step.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

struct TeamState;

struct Worker {
  int index;
  int count;
  TeamState* state;
  bool polls;  // on the thread that called the op, which alone may ask Python

  // The same thread, to work on something of its own and meet nobody at a barrier; what poll() finds still ends all
  // workers.
  Worker alone() const;

  // Waits for all workers. What each wrote before is visible to all after.
  void barrier();

  // One worker asks now and then, before the barrier that ends `step`, whether the user wants the call to end.
  void poll(int64_t step);
  // Whether to leave after `step`. Workers that meet at a barrier after poll(step) all get one answer for it; one that
  // is alone may count other steps, and leaves after whichever comes next.
  bool stopped_at(int64_t step) const;

  // Of workers that are alone: ends all, and whether they are to end.
  void stop();
  bool stopped() const { return stopped_at(0); }
};

// Calls body(context, worker) on `threads` threads of torch's pool (OpenMP's); on fewer where OpenMP grants fewer.
// False if the workers left early.
bool run_team(int threads, void (*body)(void* context, Worker& worker), void* context);

}  // namespace fastrnn::cpu
