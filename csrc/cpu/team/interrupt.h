// Interruption by Ctrl-C.
#pragma once

#include <chrono>

namespace fastrnn::cpu {

// Says whether the user wants the call to end (asks Python's signal handling); null if there is nobody to ask.
extern bool (*interrupt_requested)();

// Polls interrupt_requested, with a limited rate.
class InterruptPoll {
 public:
  bool requested();

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace fastrnn::cpu
