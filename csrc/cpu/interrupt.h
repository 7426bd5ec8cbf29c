// Ctrl-C.
#pragma once

#include <chrono>

namespace fastrnn::cpu {

// Who knows whether the user wants a call to end (Python's signals); null for nobody.
extern bool (*interrupt_requested)();

// Asks now and then.
class InterruptPoll {
 public:
  bool requested();

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace fastrnn::cpu
