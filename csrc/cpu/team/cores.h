// How many cores this process may keep busy.
#pragma once

namespace fastrnn::cpu {

// Limited by the calling thread's affinity and the cgroup's CPU quota. In a team with more workers than cores, every
// step waits for a worker that has no core: with torch.set_num_threads(16) on two busy cores, 100 steps of a GRU or
// LSTM with one batch row and 256 units took 220 ms, in a team of two 1.3 ms (an AMD EPYC, Zen 4, 2026-11-28).
int usable_cores();

// If not 0, the result of usable_cores(): tests need teams larger than their machine.
inline int forced_usable_cores = 0;

}  // namespace fastrnn::cpu
