// Stacks on which the threads of an emulated GPU take turns.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fastrnn::emulation {

class Fiber {
 public:
  // The stack of the caller: what a launch comes from and returns to.
  static Fiber of_caller();
  // A fiber that will run `entry`, which must not return, on the stack number `index`. Of the fibers made for an index
  // only the latest may be used.
  Fiber(size_t index, void (*entry)());

  // Runs `other` until something switches back.
  void switch_to(Fiber& other);
  // The same, never to come back.
  [[noreturn]] void leave_for(Fiber& other);
  // To be called first of all by `entry`.
  static void arrive();
  // For a fiber that will never run again although its function has not ended.
  void abandon();

  static bool is_stack(const void* address);

 private:
  Fiber() = default;
  void begin_switch(Fiber& other, bool for_ever);
  void change_stack(Fiber& other);

  char* bottom_ = nullptr;  // lowest address
  size_t size_ = 0;
  char* limit_ = nullptr;  // a stack in use below this is an error
#if defined(__x86_64__)
  void* top_ = nullptr;  // of what is in use, while the fiber does not run
#else
  ucontext_t context_;
#endif
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace fastrnn::emulation
