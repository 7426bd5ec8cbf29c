#include "fiber.h"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "sanitizer.h"

#if defined(__x86_64__)
// Saves what the calling convention lets a function keep, and continues where the other stack was left.
extern "C" void fastrnn_emulation_change_stack(void** save_top, void* top);
asm(R"(
.text
.globl fastrnn_emulation_change_stack
.type fastrnn_emulation_change_stack, @function
fastrnn_emulation_change_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastrnn_emulation_change_stack, . - fastrnn_emulation_change_stack
)");
#endif

namespace fastrnn::emulation {

namespace {

constexpr size_t kStackSize = 256 << 10;
constexpr size_t kStacks = 1 << 17;
constexpr size_t kSpare = 16 << 10;

// Reserved once; pages come into being when they are touched.
char* stacks() {
  static char* const memory = [] {
    void* const reserved =
        mmap(nullptr, kStacks * kStackSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) std::perror("emulation: cannot reserve stacks"), std::abort();
    return static_cast<char*>(reserved);
  }();
  return memory;
}

}  // namespace

Fiber Fiber::of_caller() {
  Fiber fiber;
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  void* bottom;
  pthread_attr_getstack(&attributes, &bottom, &fiber.size_);
  pthread_attr_destroy(&attributes);
  fiber.bottom_ = static_cast<char*>(bottom);
  return fiber;
}

Fiber::Fiber(size_t index, void (*entry)()) : size_(kStackSize) {
  if (index >= kStacks) std::fputs("emulation: too many threads at once\n", stderr), std::abort();
  bottom_ = stacks() + index * kStackSize;
  limit_ = bottom_ + kSpare;
#if defined(__x86_64__)
  // Stacks that all began at the same offset would fight over a few sets of the caches.
  const size_t colour = index * 320 % 8192;
  auto** top = reinterpret_cast<void**>(bottom_ + size_ - 64 - colour / 64 * 64);
  *--top = nullptr;  // where a return address would lie, so that `entry` finds the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = bottom_;
  context_.uc_stack.ss_size = size_;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::change_stack(Fiber& other) {
#if defined(__x86_64__)
  fastrnn_emulation_change_stack(&top_, other.top_);
#else
  swapcontext(&context_, &other.context_);
#endif
}

void Fiber::begin_switch(Fiber& other, bool for_ever) {
  const auto used_until = static_cast<char*>(__builtin_frame_address(0));
  if (used_until < limit_) {
    std::fputs("emulation: a thread's stack overflowed\n", stderr);
    std::abort();
  }
  sanitizer::start_switch(for_ever ? nullptr : &fake_stack_, other.bottom_, other.size_);
}

void Fiber::switch_to(Fiber& other) {
  begin_switch(other, false);
  change_stack(other);
  sanitizer::finish_switch(fake_stack_);
}

void Fiber::leave_for(Fiber& other) {
  begin_switch(other, true);
  change_stack(other);
  std::abort();
}

void Fiber::arrive() { sanitizer::finish_switch(nullptr); }

void Fiber::abandon() {
#if defined(__x86_64__)
  char* const from = static_cast<char*>(top_);
#else
  char* const from = bottom_;
#endif
  sanitizer::unpoison(from, static_cast<size_t>(bottom_ + size_ - from));
}

bool Fiber::is_stack(const void* address) {
  return reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(stacks()) < kStacks * kStackSize;
}

}  // namespace fastrnn::emulation
