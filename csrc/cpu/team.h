// A team of threads that runs one whole sequence: started once a call, meeting at a barrier once or twice a step.
#pragma once

#include <cstdint>

namespace fastrnn::cpu {

struct TeamState;

struct Member {
  int index;
  int count;
  TeamState* state;

  // Waits for all members. What each wrote before is visible to all after.
  void barrier();
};

// Calls body(context, member) on `threads` threads of torch's pool (OpenMP's); on fewer where OpenMP grants fewer.
void run_team(int threads, void (*body)(void* context, Member& member), void* context);

// What torch.set_num_threads asks for.
int max_threads();

}  // namespace fastrnn::cpu
