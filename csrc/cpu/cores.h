// How many cores this process may keep busy.
#pragma once

namespace fastrnn::cpu {

// By the calling thread's affinity and the control group's quota. A team with more workers waits at every step for one
// that has no core: with torch.set_num_threads(16) on two busy cores, 100 steps of a GRU or LSTM of one batch row and
// 256 units took 220 ms, and 1.3 ms in a team of two (an AMD EPYC, Zen 4, 2026-11-28).
int usable_cores();

// If not 0, what usable_cores() returns: tests want teams that are larger than their machine.
inline int forced_usable_cores = 0;

}  // namespace fastrnn::cpu
