// A team of threads that runs one whole sequence: started once a call, synchronised by a barrier once or twice a step.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

struct TeamState;

struct Worker {
  int index;
  int count;
  TeamState* state;
  bool polls;  // runs on the thread that called the op, the only one that may ask Python

  // The same thread, working on its own without barriers; what poll() finds still stops all workers.
  Worker alone() const;

  // Waits for all workers; orders all their writes before it before all reads after it.
  void barrier();

  // One worker polls, before the barrier that ends `step`, whether the user wants the call to end.
  void poll(int64_t step);
  // Whether to leave after `step`. Workers that share a barrier after poll(step) all get the same answer for it; a
  // worker that is alone() may count steps differently, and leaves after whichever comes next.
  bool stopped_at(int64_t step) const;

  // For workers that are alone(): stops all of them, and whether they were stopped.
  void stop();
  bool stopped() const { return stopped_at(0); }
};

// Calls body(context, worker) on `threads` threads of torch's (OpenMP) pool; on fewer if OpenMP grants fewer. False if
// the workers left early.
bool run_team(int threads, void (*body)(void* context, Worker& worker), void* context);

}  // namespace fastrnn::cpu
